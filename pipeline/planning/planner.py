"""Groups a corpus's sources into units of work, each bounded in images and bytes.

One task reads a unit, and one commit makes its rows visible. Sources stay in the unit that an
earlier plan put them into, done or not: in a corpus that grows between two runs no image moves from
one unit to another. `listing_diff.py` finds new sources; `labelling` works on the plan.

A source that changed, or changed back, gets a new unit: its old rows stay, and `latest.py` reads
those of the later plan. An image in error that is tried again is planned with a number, `again`,
which changes the new unit's name and not its content: if the bytes are at fault, the new rows equal
the old ones. A source that vanished keeps its rows.
"""

import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from random import Random

from pipeline.corpora.corpus import Listing, list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.planning.identities import IdCheck
from pipeline.planning.listing_diff import ListingDiff
from pipeline.planning.previous_plans import PreviousPlans
from pipeline.planning.settings import UnitSettings
from pipeline.planning.splitting import Cutter
from pipeline.runtime.skips import SkipCounts
from pipeline.storage import File, Storage, StorageFault
from pipeline.storage.locations import describe_nearest_folder
from pipeline.table.plans import put_in_force, write_plan
from pipeline.table.scratch import scratch_database
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import PLAN, Unit, unit_id

__all__ = [
    "PLAN", "FailedImage", "Plan", "Unit", "UnitSettings", "plan_corpus", "settle_plan", "unit_id",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """The source of an image in error that is tried again, as in its row."""

    uri: str
    member: str | None
    etag: str
    unit_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The units that a run labels, and what planning found in the corpus."""

    units: tuple[Unit, ...]
    """Units that are not done yet."""
    done: int
    """Number of units of this corpus that are committed."""
    earlier: int
    """Number of plans in force before this one."""
    doubled: tuple[str, ...]
    """Examples of files that are listed twice."""
    skipped: SkipCounts = field(default_factory=SkipCounts)
    """Files that are no source, by reason."""
    more_doubled: int = 0
    notices: tuple[str, ...] = ()
    """Sentences on how the corpus is read."""
    waiting: int = 0
    """Number of files that may still be written and are left for another run."""
    tried_again: int = 0
    """Number of images in error that are tried again."""
    gone: int = 0
    """Number of sources that were labelled earlier and are missing now; their rows stay."""
    first_gone: str | None = None
    out_of_reach: int = 0
    """Number of files that storage could not look up, left for another run."""
    storage_faults: tuple[str, ...] = ()
    """Reasons of the first of them."""

    def units_in_turn(self, run_id: str) -> list[Unit]:
        """Returns the units in the order of work: those of earlier plans first, shuffled by run.

        Another run may work on the same units; both skip units that are done. In different orders
        they do fewer units twice.
        """
        others = [unit for unit in self.units if unit.plan_number < self.earlier]
        Random(run_id).shuffle(others)
        return [*others, *(unit for unit in self.units if unit.plan_number >= self.earlier)]

    @cached_property
    def num_images(self) -> int | None:
        counts = [unit.num_images for unit in self.units]
        return None if None in counts else sum(count or 0 for count in counts)

    @cached_property
    def num_bytes(self) -> int:
        return sum(unit.num_bytes for unit in self.units)


def plan_corpus(
    corpus: str,
    *,
    table: TableStore,
    spec: TableSpec,
    reading: ReadSettings,
    units: UnitSettings,
    limit: int | None = None,
    waits: Callable[[File], bool] = lambda file: False,
    failed: Sequence[FailedImage] = (),
    is_trial: bool = False,
) -> Plan:
    """Plans the units of a corpus that the table does not hold yet.

    It writes temporary files of about 150 bytes per image.

    Args:
        limit: plan only this many images, the first of the corpus.
        waits: returns True for a file that is left for another run.
        failed: images to try again, if the corpus still has them.
        is_trial: the plan is only shown; nothing is written.

    Raises:
        ValueError: the corpus holds no source at all, or images share an id.
        StorageFault: all sources of a labelled corpus are missing, or storage failed.
    """
    with tempfile.TemporaryDirectory(prefix="plan-") as folder, scratch_database() as database:
        previous = PreviousPlans(table, database=database)
        parquet_files = previous.parquet_files
        listing = list_corpus(
            corpus,
            storage=table.storage,
            settings=reading,
            is_planned=lambda file: (file.uri, file.etag) in parquet_files,
            waits=waits,
        )
        cutter = Cutter(storage=table.storage, reading=reading)
        sources: Iterable[Source] = listing.sources
        if limit is not None:
            sources = cutter.first_images(sources, limit=limit, known=previous.slices)
        diff = ListingDiff(
            sources,
            previous=previous,
            root=listing.root,
            storage=table.storage,
            database=database,
            folder=Path(folder),
            writes_tombstones=not is_trial,
        )
        if limit is None:
            _check_there(diff, listing, previous=previous, place=table.storage.absolute(corpus))
        if not (diff.num_listed or listing.waiting or listing.out_of_reach):
            raise ValueError(_nothing(corpus, listing, storage=table.storage))
        IdCheck(
            diff=diff,
            previous=previous,
            root=listing.root,
            reading=reading,
            storage=table.storage,
            database=database,
        ).run()
        again = list(_again(failed, diff=diff, cutter=cutter))
        pieces = (
            piece
            for source in chain(diff.new(), again)
            for piece in cutter.slices(
                source, max_images=units.unit_images, max_bytes=units.unit_bytes
            )
        )
        new = (
            Unit(unit_id=unit_id(group, spec=spec), sources=group, plan_number=previous.count)
            for group in _grouped(pieces, units=units)
        )
        return Plan(
            units=(*diff.pending(), *new),
            done=diff.num_done,
            earlier=previous.count,
            skipped=listing.skipped,
            doubled=tuple(listing.doubled),
            more_doubled=listing.more_doubled,
            notices=tuple(listing.notices),
            waiting=listing.waiting,
            tried_again=sum(source.num_images or 1 for source in again),
            gone=diff.num_gone,
            first_gone=diff.first_gone(),
            out_of_reach=listing.out_of_reach,
            storage_faults=tuple(listing.faults),
        )


def settle_plan(
    plan: Plan, *, plan_again: Callable[[], Plan], table: TableStore, run_id: str
) -> Plan:
    """Writes a plan and puts it in force; returns the plan that is.

    Two runs that start together on a growing corpus could put one image into two different units.
    Therefore each plan takes the next number, which storage gives to one writer only, and a plan
    whose number is taken is made again.
    """
    while plan.units:
        write_plan(plan.units, table=table, run_id=run_id)
        if put_in_force(table, run_id=run_id, number=plan.earlier):
            return plan
        plan = plan_again()
    return plan


def _check_there(
    diff: ListingDiff, listing: Listing, *, previous: PreviousPlans, place: str
) -> None:
    """Raises if all sources that were labelled are missing, as if a disk is not mounted."""
    if diff.num_there or listing.waiting > listing.waiting_absent:
        return
    if listing.out_of_reach:
        raise StorageFault(
            f"storage could not look up any file of {place}; failed: {listing.out_of_reach:,}, for "
            f"example {listing.faults[0]}"
        )
    if diff.num_gone or (not diff.num_listed and previous.has_labelled(place)):
        named = diff.num_listed + listing.waiting
        what = (
            f"none of the {named:,} files that {place} names" if named else f"no image at {place}"
        )
        example = f", for example {diff.first_gone()}" if diff.num_gone else ""
        raise StorageFault(
            f"{what} exists{example}, but the corpus was labelled into this table before: is its "
            "disk mounted, its bucket the right one? The rows in the table stay as they are"
        )


def _nothing(corpus: str, listing: Listing, *, storage: Storage) -> str:
    what = "no image, archive, Parquet file or manifest"
    but = "".join(
        f"; {count:,} {'file' if count == 1 else 'files'} ({reason}), as {examples[0]}"
        for reason, count, examples in listing.skipped.by_frequency()
    )
    if not but and next(storage.files(listing.root), None) is None:
        return f"{what}: {describe_nearest_folder(corpus, storage=storage)}"
    if not but and storage.absolute(corpus) != listing.root:
        but = f"; nothing that is there below {listing.root} matches"
    return f"{what} at {corpus}{but}; see --corpus in --help"


def _grouped(sources: Iterable[Source], *, units: UnitSettings) -> Iterator[list[Source]]:
    """Groups neighbours up to the bounds; a source that exceeds them alone stays alone."""
    group: list[Source] = []
    images = num_bytes = 0
    for source in sources:
        more_images, more_bytes = source.num_images or 1, source.num_bytes
        full = images + more_images > units.unit_images or num_bytes + more_bytes > units.unit_bytes
        if group and full:
            yield group
            group, images, num_bytes = [], 0, 0
        group.append(source)
        images, num_bytes = images + more_images, num_bytes + more_bytes
    if group:
        yield group


def _again(failed: Iterable[FailedImage], *, diff: ListingDiff, cutter: Cutter) -> Iterator[Source]:
    """Yields the sources of failed images, except those in pending units."""
    members: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for image in failed:
        members[image.unit_id, image.uri, image.etag].add(image.member or "")
    yield from diff.done_files({(uri, etag) for _, uri, etag in members})
    for (unit, uri, etag), names in members.items():
        for part in diff.done_archives(unit, uri=uri, etag=etag):
            for piece in [part] if "" in names else cutter.around(part, members=names):
                if not diff.is_pending(piece):
                    yield dataclasses.replace(piece, again=diff.attempts(piece))
