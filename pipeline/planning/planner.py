"""Planning: a corpus's sources to units of work, each bounded in images and bytes.

A unit is what one task reads and what one commit makes visible. Sources that an earlier plan put
into a unit stay in it, done or not, so that a corpus which grows between two runs never moves an
image from one unit into another. `listing_diff.py` finds what is new; `labelling/` does them.

A source that changed gets a new unit, and so has one that changed back: the old rows stay, and
those of the later plan count (`latest.py`). An image in error that is tried again is planned as its
source with a number, `again`, that is part of the new unit's name and not of its content: were the
cause in its bytes, the new rows would say the same. One that vanished keeps its rows.
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
from pipeline.storage.locations import what_is_near
from pipeline.table.plans import put_in_force, write_plan
from pipeline.table.store import TableSpec, TableStore
from pipeline.table.units import PLAN, Unit, unit_id

__all__ = [
    "PLAN", "FailedImage", "Plan", "Unit", "UnitSettings", "plan_corpus", "settle_plan", "unit_id",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """An image in error that is to be tried again, as its row has it."""

    uri: str
    member: str | None
    etag: str
    unit_id: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do, and what it found already done."""

    units: tuple[Unit, ...]
    """Not done yet."""
    done: int
    """Number of units of this corpus that are committed."""
    earlier: int
    """Number of plans that this one takes into account: all that were in force."""
    doubled: tuple[str, ...]
    """Files that are named twice, the first of them."""
    skipped: SkipCounts = field(default_factory=SkipCounts)
    """Files that are no source, by reason."""
    more_doubled: int = 0
    notices: tuple[str, ...] = ()
    """Sentences on how the corpus is read."""
    waiting: int = 0
    """Number of files that are left for another time."""
    tried_again: int = 0
    """Number of images in error that are to be tried again."""
    gone: int = 0
    """Number of sources that were labelled and are absent now; their rows stay."""
    first_gone: str | None = None
    out_of_reach: int = 0
    """Number of files that the storage could say nothing of, left for another run."""
    storage_faults: tuple[str, ...] = ()
    """Why, of the first of them."""

    def units_in_turn(self, run_id: str) -> list[Unit]:
        """The units as this run does them: those of earlier plans first, in an order of its own.

        A run beside this one may be at work on them, and looks, as this one does, whether a unit is
        done before it begins: the less they go in step, the less is done twice.
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
    """The units of a corpus that the table does not hold yet.

    Beside the plan it takes room on the disk for temporary files, some 150 bytes per image.

    Args:
        limit: plan the first images of the corpus only, so many.
        waits: whether a file is left for another time.
        failed: images to try again, where the corpus still has them.
        is_trial: the plan will not come into force; nothing is written.

    Raises:
        ValueError: the corpus holds no source at all, or images share an id.
        StorageFault: nothing of it is there, and something was; or the storage failed.
    """
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        folder = Path(name)
        earlier = PreviousPlans(table, folder=folder)
        parquet_files = earlier.parquet_files
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
            sources = cutter.first_images(sources, limit=limit, known=earlier.slices)
        comparison = ListingDiff(
            sources,
            earlier=earlier,
            root=listing.root,
            storage=table.storage,
            folder=folder,
            gives_up=not is_trial,
        )
        if limit is None:
            _check_there(comparison, listing, earlier=earlier, place=table.storage.absolute(corpus))
        if not (comparison.num_listed or listing.waiting or listing.out_of_reach):
            raise ValueError(_nothing(corpus, listing, storage=table.storage))
        IdCheck(
            comparison=comparison,
            earlier=earlier,
            root=listing.root,
            reading=reading,
            storage=table.storage,
            folder=folder,
        ).run()
        again = list(_again(failed, comparison=comparison, cutter=cutter))
        pieces = (
            piece
            for source in chain(comparison.new(), again)
            for piece in cutter.slices(
                source, max_images=units.unit_images, max_bytes=units.unit_bytes
            )
        )
        new = (
            Unit(unit_id=unit_id(group, spec=spec), sources=group, plan_number=earlier.count)
            for group in _grouped(pieces, units=units)
        )
        return Plan(
            units=(*comparison.pending(), *new),
            done=comparison.num_done,
            earlier=earlier.count,
            skipped=listing.skipped,
            doubled=tuple(listing.doubled),
            more_doubled=listing.more_doubled,
            notices=tuple(listing.notices),
            waiting=listing.waiting,
            tried_again=sum(source.num_images or 1 for source in again),
            gone=comparison.num_gone,
            first_gone=comparison.first_gone(),
            out_of_reach=listing.out_of_reach,
            storage_faults=tuple(listing.faults),
        )


def settle_plan(
    plan: Plan, *, plan_again: Callable[[], Plan], table: TableStore, run_id: str
) -> Plan:
    """A plan that is written down and in force: every plan after it takes it into account.

    Two runs that start together on a growing corpus could put one image into two different units.
    So plans come into force one after another: each takes the next number, which the storage gives
    to one writer only, and a plan that finds its number taken is made again.
    """
    while plan.units:
        write_plan(plan.units, table=table, run_id=run_id)
        if put_in_force(table, run_id=run_id, number=plan.earlier):
            return plan
        plan = plan_again()
    return plan


def _check_there(
    comparison: ListingDiff, listing: Listing, *, earlier: PreviousPlans, place: str
) -> None:
    """Raises where nothing of the corpus is there that once was, as where a disk is not mounted."""
    if comparison.num_there or listing.waiting > listing.waiting_absent:
        return
    if listing.out_of_reach:
        raise StorageFault(
            f"of {place} nothing could be found: {listing.out_of_reach:,} files are out of reach, "
            f"as {listing.faults[0]}"
        )
    if comparison.num_gone or (not comparison.num_listed and earlier.has_labelled(place)):
        named = comparison.num_listed + listing.waiting
        what = (
            f"none of the {named:,} files that {place} names" if named else f"no image at {place}"
        )
        example = f", as {comparison.first_gone()}" if comparison.num_gone else ""
        raise StorageFault(
            f"{what} is there{example}, and it was labelled into this table before: is its disk "
            "mounted, its bucket the right one? The rows in the table stay as they are"
        )


def _nothing(corpus: str, listing: Listing, *, storage: Storage) -> str:
    what = "no image, archive, Parquet file or manifest"
    but = "".join(
        f"; {count:,} {'file' if count == 1 else 'files'} ({reason}), as {examples[0]}"
        for reason, count, examples in listing.skipped.by_frequency()
    )
    if not but and next(storage.files(listing.root), None) is None:
        return f"{what}: {what_is_near(corpus, storage=storage)}"
    if not but and storage.absolute(corpus) != listing.root:
        but = f"; nothing that is there below {listing.root} matches"
    return f"{what} at {corpus}{but}; see --corpus in --help"


def _grouped(sources: Iterable[Source], *, units: UnitSettings) -> Iterator[list[Source]]:
    """Neighbours together, up to the bounds; a source that reaches them alone stays alone."""
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


def _again(
    failed: Iterable[FailedImage], *, comparison: ListingDiff, cutter: Cutter
) -> Iterator[Source]:
    """The sources of failed images, but for those that are waiting for their turn already."""
    members: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for image in failed:
        members[image.unit_id, image.uri, image.etag].add(image.member or "")
    yield from comparison.done_files({(uri, etag) for _, uri, etag in members})
    for (unit, uri, etag), names in members.items():
        for part in comparison.done_archives(unit, uri=uri, etag=etag):
            for piece in [part] if "" in names else cutter.around(part, members=names):
                if not comparison.is_pending(piece):
                    yield dataclasses.replace(piece, again=comparison.times_held(piece))
