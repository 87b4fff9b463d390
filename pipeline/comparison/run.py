"""Compares two segment tables of the same images.

    maskformer compare TABLE_A TABLE_B --output OUT

leaves in OUT:

    agreement/00000.parquet ...   a row per image, ascending by image_id (`agreement.AGREEMENT`)
    report.html                   labels, changes, the images that differ most
    comparison.json               the same numbers; written last, so that it stands for all of it

The same command again does it anew and leaves the same.
"""

import heapq
import io
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.comparison.agreement import AGREEMENT
from pipeline.comparison.common_labels import common_labels
from pipeline.comparison.measuring import measured_tables
from pipeline.comparison.page import ComparisonPage, headline, render_comparison, summary
from pipeline.comparison.pictures import draw_triples
from pipeline.comparison.settings import CompareSettings
from pipeline.comparison.sums import Sums
from pipeline.corpora.reading import ReadSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.storage import Storage, join
from pipeline.storage.local_files import remove_drafts
from pipeline.storage.uris import LOCAL, local_path, protocol
from pipeline.table.made_by import FIELD as MADE_BY
from pipeline.table.made_by import MadeBy
from pipeline.table.store import TableStore

_ROWS_PER_FILE = 2**20
_ROWS_PER_GROUP = 2**16
_RESULT = "comparison.json"
_FOLDER = "agreement"


def compare_tables(settings: Settings) -> int:
    """Compares the tables; gives 0 done.

    Raises:
        WrongUsage: one of them is no table, they share no label, or no image could be compared.
        StorageFault: the storage failed.
    """
    given = settings.of(CompareSettings)
    storage = settings.of(Storage).with_environment()
    with as_wrong_usage():
        result = compare(
            TableStore(given.table_a, storage),
            TableStore(given.table_b, storage),
            settings=given,
        )
    print(f"{headline(result)}. {summary(result)}")
    print(f"report: {join(storage.absolute(given.output), 'report.html')}")
    return ExitCode.DONE


def compare(first: TableStore, second: TableStore, *, settings: CompareSettings) -> Sums:
    """Writes agreement, report and numbers of a comparison; returns the sums.

    Raises:
        ValueError: one of them is no table, they share no label, or no image could be compared.
    """
    specs = first.existing_spec(), second.existing_spec()
    labels = common_labels(specs[0]["labels"], specs[1]["labels"])
    storage = second.storage
    output = storage.absolute(settings.output)
    # An earlier result must not stand for rows that are about to change.
    storage.delete([join(output, _RESULT)])
    if protocol(output) in LOCAL:
        remove_drafts(local_path(output))
    worst = _Worst(settings.worst)
    writer = _AgreementWriter(output, storage)
    sums = Sums.nothing(num_labels=len(labels.names))
    for found in measured_tables(first, second, labels=labels):
        sums = sums.plus(found.sums)
        worst.add(found.rows)
        writer.write(found.rows)
    writer.close()
    if not sums.images.get("both"):
        raise ValueError(
            "two tables to compare must have segmented images with the same image_id, these have "
            f"none: {', '.join(f'{n:,} {state}' for state, n in sums.images.items() if n)}"
        )
    page = ComparisonPage(
        table_a=first.uri,
        table_b=second.uri,
        made_a=_made_by(specs[0]),
        made_b=_made_by(specs[1]),
        labels=labels,
        sums=sums,
        worst=worst.rows(),
        pictures=draw_triples(
            first,
            second,
            [row["image_id"] for row in worst.rows()],
            reading=ReadSettings(),
            picture_bytes=settings.picture_bytes,
        ),
    )
    storage.write(join(output, "report.html"), render_comparison(page).encode())
    numbers = json.dumps(_numbers(page), indent=1, ensure_ascii=False).encode()
    storage.write(join(output, _RESULT), numbers)
    return sums


class _Worst:
    """Keeps the images that differ most; of equals, the first by name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[float, str, dict[str, Any]]] = []

    def add(self, rows: pa.Table) -> None:
        known = rows.filter(pc.field("disagreement") > self._least())
        if not self._most or not len(known):
            return
        # Few rows become Python objects, however many there are.
        order = pc.select_k_unstable(
            known, k=min(self._most, len(known)),
            sort_keys=[("disagreement", "descending"), ("image_id", "ascending")],
        )  # fmt: skip
        new = [
            (-row["disagreement"], row["image_id"], row) for row in known.take(order).to_pylist()
        ]
        self._kept = heapq.nsmallest(self._most, [*self._kept, *new], key=lambda each: each[:2])

    def rows(self) -> list[dict[str, Any]]:
        return [row for _, _, row in self._kept]

    def _least(self) -> float:
        """Returns the disagreement that a row must exceed; earlier rows win among equals."""
        return -self._kept[-1][0] if len(self._kept) == self._most > 0 else 0.0


class _AgreementWriter:
    """Writes rows to files of a bounded number of rows; removes files of an earlier comparison."""

    def __init__(self, output: str, storage: Storage) -> None:
        self._output, self._storage = output, storage
        self._held: list[pa.Table] = []
        self._num_held = 0
        self._num_files = 0

    def write(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self._num_held += len(rows)
        if self._num_held >= _ROWS_PER_FILE:
            self._flush()

    def close(self) -> None:
        """Writes what is left; a comparison without images leaves one empty file."""
        if self._num_held or not self._num_files:
            self._flush()
        names = {self._place(number) for number in range(self._num_files)}
        listed = [file.uri for file in self._storage.files(join(self._output, _FOLDER))]
        self._storage.delete([uri for uri in listed if uri not in names])

    def _flush(self) -> None:
        buffer = io.BytesIO()
        rows = pa.concat_tables([AGREEMENT.empty_table(), *self._held])
        pq.write_table(rows, buffer, compression="zstd", row_group_size=_ROWS_PER_GROUP)
        self._storage.write(self._place(self._num_files), buffer.getvalue())
        self._held, self._num_held = [], 0
        self._num_files += 1

    def _place(self, number: int) -> str:
        return join(self._output, _FOLDER, f"{number:05}.parquet")


def _made_by(spec: Mapping[str, Any]) -> str:
    made_by = MadeBy.of(spec.get(MADE_BY))
    name = "" if made_by is None else f"{made_by.text}; "
    return (
        f"{name}{spec['task']}, model {spec['model_fingerprint'][:12]}, "
        f"{len(spec['labels'])} labels, threshold {spec['threshold']}, {spec['precision']}"
    )


def _numbers(page: ComparisonPage) -> dict[str, Any]:
    sums, names = page.sums, page.labels.names
    return {
        "table_a": page.table_a,
        "table_b": page.table_b,
        "images": dict(sums.images),
        "pq": sums.pq,
        "area_same_label": sums.area_same_label,
        "segments": {
            "kept": sums.kept,
            "lost": sums.lost,
            "gained": sums.gained,
            "relabelled": sums.relabelled,
        },
        "labels_only_in_a": list(page.labels.only_first),
        "labels_only_in_b": list(page.labels.only_second),
        "labels": sums.labels(names),
        "changes": sums.changes(names),
        "worst": [dict(row) for row in page.worst],
    }
