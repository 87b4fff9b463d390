"""SIGKILL of workers, actors, raylet and driver at random moments, until the table is done."""

import os
from pathlib import Path
from typing import Any

import pytest
from campaign import VICTIMS, CampaignFindings, campaign, our_contestant, rival
from drawn import plain_corpus, written
from job_runs import Jobs

_KILLS = int(os.environ.get("FAULTS_KILLS", "12"))
"""200 make the full campaign: hours."""
_SEED = int(os.environ.get("FAULTS_SEED", "0"))
_IMAGES = 240


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("corpus"), plain_corpus(_IMAGES))


@pytest.mark.faults
@pytest.mark.timeout(24 * 3600)
def test_random_kills_lose_and_double_nothing(
    jobs: Jobs, usual: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    outcome = campaign(
        our_contestant(corpus, usual), kills=_KILLS, seed=_SEED, jobs=jobs, folder=tmp_path
    )
    print(f"figure: {outcome.to_json()}")
    assert outcome.kills.total() == _KILLS
    assert (outcome.lost, outcome.doubled, outcome.wrong) == (0, 0, 0)
    assert (outcome.unreadable, outcome.endless) == (0, 0)
    if _KILLS >= 12:
        assert set(outcome.kills) == set(VICTIMS)


@pytest.mark.faults
@pytest.mark.timeout(24 * 3600)
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_the_same_kills_on_the_job_that_a_user_of_ray_data_writes(
    has_checkpoint: bool, jobs: Jobs, usual: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    """Prints what is lost and doubled there; that it can be measured is what is held."""
    contestant = rival(corpus, usual, has_checkpoint=has_checkpoint)
    outcome = campaign(contestant, kills=_KILLS, seed=_SEED, jobs=jobs, folder=tmp_path)
    print(f"figure: {outcome.to_json()}")
    assert isinstance(outcome, CampaignFindings)
    assert outcome.kills.total() == _KILLS
