"""Imports a file of annotations: takes what a person changed as reviews of a table.

The file is read to its end before anything is written, so that one that is cut off leaves nothing.
Each image becomes one revision, which appears whole or not at all. After a stop anywhere the same
command goes on: images that are already as the file has them are left alone.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.exchange.importing.annotations import UnreadableFile
from pipeline.exchange.importing.changes import ImportedState, imported_state
from pipeline.exchange.importing.findings import ImportFindings
from pipeline.exchange.importing.grouping import MatchedImage, matched_images
from pipeline.exchange.importing.label_maps import LabelMapReader
from pipeline.exchange.importing.matching import MatchCounts, match_images
from pipeline.exchange.importing.payloads import open_payloads
from pipeline.exchange.importing.readers import open_reader
from pipeline.exchange.importing.regions import RegionReader, UnusableImage
from pipeline.exchange.importing.scope import ExportScope, export_scope
from pipeline.exchange.importing.settings import ImportSettings
from pipeline.exchange.importing.staging import stage
from pipeline.exchange.importing.states import ImageState, TableStates
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import Revision
from pipeline.reviews.saving import Conflict, save
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import ImageCount, ProgressDisplay
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.runtime.wording import count
from pipeline.storage import Storage
from pipeline.table.scratch import scratch_database
from pipeline.table.store import TableSpec, TableStore

_SCRATCH_MEMORY = "128MB"
"""Enough to match a million images."""


def import_annotations(settings: Settings) -> int:
    """Runs an import; prints what was taken. Returns the exit code."""
    chosen = settings.of(ImportSettings)
    storage = settings.of(Storage).with_environment()
    findings = ImportFindings()
    try:
        with as_wrong_usage():
            result = import_file(chosen, storage=storage, findings=findings)
    except FileNotFoundError as error:
        raise WrongUsage(str(error)) from error
    for line in result.lines(chosen):
        print(line)
    for line in findings.lines():
        print(line, file=sys.stderr)
    if chosen.findings is not None:
        storage.write(chosen.findings, findings.json_lines())
    if not result.match.matched:
        print(f"no image of {chosen.file} is in {chosen.table} as it is there", file=sys.stderr)
        return ExitCode.WRONG_USAGE
    return ExitCode.DONE_WITH_ERRORS if findings.count else ExitCode.DONE


@dataclass(kw_only=True)
class ImportResult:
    """Counts of an import."""

    match: MatchCounts
    regions: int
    as_before: int = 0
    """Images that were already as the file has them."""
    saved: int = 0
    merged: int = 0
    """Of these, images that another reviewer had changed meanwhile, elsewhere."""
    operations: Counter[str] = field(default_factory=Counter)
    pixels: int = 0

    def lines(self, settings: ImportSettings) -> Iterator[str]:
        """Yields lines for people."""
        yield (
            f"{settings.file}: {count(self.match.listed, 'image')} with "
            f"{count(self.regions, 'annotation')}, {self.match.matched:,} of them in the table"
        )
        would = "would be " if settings.dry_run else ""
        yield f"as before: {self.as_before:,}; {would}corrected: {self.saved:,}"
        if self.operations:
            done = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self.operations.items()))
            yield f"changes: {done}; {count(self.pixels, 'pixel')}"
        if self.merged:
            yield f"joined with what others changed meanwhile: {count(self.merged, 'image')}"


def import_file(
    settings: ImportSettings, *, storage: Storage, findings: ImportFindings
) -> ImportResult:
    """Saves a revision of each image that differs from its state; images left out are findings.

    Raises:
        ValueError: the file cannot be read, the table is none, or nobody says who the reviewer is.
        StorageFault: the storage failed, after retries.
    """
    table = TableStore(settings.table, storage)
    spec = TableSpec.of(table.existing_spec())
    with (
        scratch_database(memory=_SCRATCH_MEMORY) as database,
        open_payloads() as payloads,
        export_scope(settings, table, storage=storage) as scope,
    ):
        with open_reader(settings, storage=storage) as reader:
            num_images, num_regions = stage(reader, database=database, payloads=payloads)
        if not num_images:
            raise UnreadableFile(f"{settings.file} lists no image")
        match = match_images(table.uri, storage=storage, database=database, findings=findings)
        result = ImportResult(match=match, regions=num_regions)
        importer = _Importer(
            settings=settings,
            spec=spec,
            states=TableStates(
                table=table,
                log=ReviewLog.of_table(table.uri, reviews=settings.reviews, storage=storage),
                spec=spec,
                ignores_reviews=scope.ignored_reviews,
            ),
            reader=RegionReader(
                labels=reader.labels,
                known_labels={name: number for number, name in enumerate(spec.labels)},
                may_overlap=spec.task == "instance",
                decides_overlaps=reader.decides_overlaps,
                storage=storage,
                map_names=reader.names() if isinstance(reader, LabelMapReader) else None,
            ),
            scope=scope,
            result=result,
            findings=findings,
        )
        stats = RunStats()
        with ProgressDisplay(stats, ImageCount(num_images=match.matched), doing="importing"):
            for image in matched_images(database, payloads=payloads):
                importer.take(image)
                stats.add(Counts(images=1, segments=len(image.regions)), errors=())
    return result


@dataclass(frozen=True, kw_only=True)
class _Importer:
    """Takes one image after the other."""

    settings: ImportSettings
    spec: TableSpec
    states: TableStates
    reader: RegionReader
    scope: ExportScope
    result: ImportResult
    findings: ImportFindings

    def take(self, image: MatchedImage) -> None:
        """Saves a revision of an image if the file differs from its state."""
        state = self.states.of(image)
        try:
            after = self._after(image, state)
        except UnusableImage as error:
            self.findings.add(error.rule, image.name, error.detail)
            return
        if after is None or not after.operations or state.is_newest(after.segments):
            self.result.as_before += 1
            return
        revision = self._revision(image, state, after)
        if self.settings.dry_run:
            self._count(revision)
            return
        saved = save(self.states.log, revision, base=lambda: state.model_segments)
        if isinstance(saved, Conflict):
            self.findings.add(
                "in conflict with a review since the export",
                image.name,
                f"revision {saved.theirs.revision} of {saved.theirs.reviewer} changed the same; "
                f"the file's state is kept in {saved.branch}",
            )
        elif state.newest is not None and saved.revision <= state.newest.revision:
            self.result.as_before += 1  # saved by an earlier import
        else:
            self._count(saved)

    def _after(self, image: MatchedImage, state: ImageState) -> ImportedState | None:
        """Returns what the file makes of the state; None if it is the same at a glance."""
        if self.scope.is_everything and self.reader.is_same_at_a_glance(
            image, state.labels_and_rles()
        ):
            return None
        left_out = self.scope.left_out(state.segments, image=image)
        in_file = [each for each in state.segments if each.segment_id not in left_out]
        return imported_state(
            state.segments,
            self.reader.masks(image, before=in_file),
            spec=self.spec,
            height=image.height,
            width=image.width,
            left_out=left_out,
            shown=self.reader.shown(image, before=in_file),
        )

    def _revision(self, image: MatchedImage, state: ImageState, after: ImportedState) -> Revision:
        reviewer = self.settings.reviewer or image.reviewer
        if reviewer is None:
            raise ValueError(
                f"{self.settings.file} does not say who corrected it; give --reviewer NAME"
            )
        return self.states.model_of(image, state).revision(
            revision=(state.newest.revision if state.newest else 0) + 1,
            parent_revision=state.parent,
            status="corrected",
            reviewer=reviewer,
            created_at=datetime.now(UTC),
            tool=f"import {self.settings.format}",
            operations=after.operations,
            segments=after.segments,
        )

    def _count(self, revision: Revision) -> None:
        self.result.saved += 1
        self.result.merged += bool(revision.merged_with)
        # Saving counts the pixels exactly; a dry run adds up those of the operations.
        of_operations = sum(each.pixels for each in revision.operations)
        self.result.pixels += revision.changed_pixels or of_operations
        self.result.operations.update(each.kind for each in revision.operations)
