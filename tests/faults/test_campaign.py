"""The campaign of kills sees what it is there to see, on a job without Ray."""

import sys
from pathlib import Path

import pytest
from campaign import Contestant, campaign
from job_runs import Jobs
from small_runs import written_corpus

from pipeline.table.store import images

_STAND_IN = Path(__file__).parent / "stand_in.py"
NAMES = [f"{n:02}.jpg" for n in range(12)]


@pytest.mark.faults
@pytest.mark.parametrize("manner", ["careful", "careless"])
def test_a_careless_job_is_told_from_a_careful_one(manner: str, jobs: Jobs, tmp_path: Path) -> None:
    corpus = written_corpus(tmp_path / "corpus", names=NAMES)
    contestant = Contestant(
        name=manner,
        command=lambda folder: [sys.executable, str(_STAND_IN), str(corpus), str(folder), manner],
        rows=_rows,
    )

    outcome = campaign(contestant, kills=6, seed=0, jobs=jobs, folder=tmp_path)

    assert outcome.kills.total() == 6
    assert len(outcome.kills) >= 3
    assert outcome.runs >= 6 + 1
    assert (outcome.lost, outcome.wrong, outcome.unreadable, outcome.endless) == (0, 0, 0, 0)
    assert outcome.images == outcome.tables * len(NAMES)
    assert (outcome.doubled > 0) == (manner == "careless")


def _rows(folder: Path) -> list[tuple[str, int]]:
    tables = [file.parent for file in folder.glob("table/*/_table.json")]
    found = [row for table in tables for row in images(str(table)).to_table().to_pylist()]
    return [(row["image_id"], row["num_segments"]) for row in found]
