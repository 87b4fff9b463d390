"""`jobs/finetune.py` from the command line: two workers, kills, and where the model goes then."""

import json
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
import yaml
from as_files import encode_image
from drawn import tar, written
from job_runs import ROOT, Ended, Here, Job, Jobs, Moment, Outcome, words
from PIL import Image
from s3 import KEY, SECRET, s3_server
from small_training import SMALL_MODEL
from table_rows import rows_of
from train_alone import train_alone
from waiting import wait_until

from jobs import finetune
from pipeline.storage import Storage
from pipeline.training.checkpoint import Checkpoints

FINETUNE = ROOT / "jobs" / "finetune.py"
NUM_STEPS = 6
LABELS = ["sky", "road", "car"]


def labelled(count: int, *, change: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """A shard of scenes with sky, road and one to four cars, and maps of their segments.

    Args:
        change: members that are others, as bytes or JSON.
    """
    members = {}
    for scene in range(count):
        ids = np.where(np.arange(48)[:, None] < 20, 1, 2).repeat(64, 1).astype(np.uint8)
        segments = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 1}]
        for car in range(1 + scene % 4):
            ids[24 : 34 + scene, 2 + 15 * car : 12 + 15 * car] = 3 + car
            segments.append({"id": 3 + car, "label_id": 2})
        colours = np.random.default_rng(scene).integers(40, 255, (8, 3))
        members[f"{scene}.png"] = encode_image(Image.fromarray(ids))
        members[f"{scene}.jpg"] = encode_image(colours[ids].astype(np.uint8), "JPEG")
        members[f"{scene}.json"] = json.dumps({"segments_info": segments}).encode()
    for name, said in (change or {}).items():
        members[name] = said if isinstance(said, bytes) else json.dumps(said).encode()
    names = json.dumps({"labels": LABELS, "things": ["car"]}).encode()
    return {"all.tar": tar(members), "labels.json": names}


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a tiny model to begin with, and how it is trained, in some seconds."""
    folder = written(tmp_path_factory.mktemp("finetune"), labelled(4))
    settings = {
        "dataset": str(folder / "all.tar"),
        "validation": str(folder / "all.tar"),
        **SMALL_MODEL,
        "num_steps": NUM_STEPS,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "log_every": 1,
        "num_workers": 2,
        "loader_processes": 0,
        "threshold": 0.1,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def start(jobs: Jobs, config: Path, output: Path, *, moments: Any = (), **options: Any) -> Job:
    command = [sys.executable, str(FINETUNE), "--config", str(config), "--output", str(output)]
    return jobs.start_command([*command, *words(options)], moments=moments)


def history(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> dict[int, float]:
    lines = [line for line in history(output) if line["kind"] == "train"]
    by_step = {line["step"]: line["loss"] for line in lines}
    assert len(by_step) == len(lines)
    return by_step


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of a run that nothing disturbed, of one worker in this process."""
    output = tmp_path_factory.mktemp("undisturbed") / "model"
    assert train_alone(words({"config": config, "output": output})) == 0
    return losses(output)


@pytest.fixture(scope="module")
def trained(
    jobs: Jobs, config: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ended]:
    """A run that was killed, and which the command on Ray ended. Not to be changed.

    The first had one worker and no Ray: another number of workers changes nothing either.
    """
    output = tmp_path_factory.mktemp("trained") / "model"
    moment = Moment(at="before put", name="*/step-00000004/checkpoint.json", do="kill driver")
    program = Path(__file__).with_name("train_alone.py")
    command = [sys.executable, str(program), *words({"config": config, "output": output})]
    jobs.start_command(command, moments=[moment]).end().expect(-signal.SIGKILL)
    return output, start(jobs, config, output).end().expect(0)


def test_a_run_leaves_a_model_with_its_card_its_curves_and_its_history(
    trained: tuple[Path, Ended],
):
    output, ended = trained
    assert set(losses(output)) == set(range(1, NUM_STEPS + 1))
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "curves.png"):
        assert (output / name).stat().st_size > 100, name
    card = (output / "README.md").read_text()
    assert "road" in card
    assert "fresh weights" in card
    report = json.loads((output / "report.json").read_text())
    validated = [line for line in history(output) if line["kind"] == "validation"]
    assert [line["step"] for line in validated] == [2, 4, 6]
    assert report["score"] == max(line["pq"] for line in validated)
    assert list((output / "events").glob("events.*"))
    assert "images/s" in ended.stderr
    assert "validation: pq" in ended.stderr


def test_beside_its_workers_a_run_on_a_cluster_of_its_own_has_five_actors(
    trained: tuple[Path, Ended],
):
    """A controller, one that gives it resources, one that the workers meet at, one that frees the
    resources when the controller dies, and one for data sets of Ray Data, though there are none."""
    _, ended = trained
    assert ended.ray_folder is not None
    [folder] = ended.ray_folder.rglob("session_2*/logs")
    told = [line for log in folder.glob("worker-*.out") for line in log.read_text().splitlines()]
    names = {line.removeprefix(":actor_name:") for line in told if line.startswith(":actor_name:")}
    assert names == {
        "TrainController", "_AutoscalingCoordinatorActor", "SynchronizationActor", "RayTrainWorker",
        "PlacementGroupCleaner", "DatasetManager",
    }  # fmt: skip


@pytest.mark.faults
def test_the_model_goes_straight_into_the_labelling_job(
    jobs: Jobs, plain: Path, trained: tuple[Path, Ended], tmp_path: Path
):
    options = {"corpus": plain, "table": tmp_path / "table", "model": trained[0], "num_actors": 1}
    jobs.run(threshold=0.1, **options).expect(0)
    assert len(rows_of(tmp_path / "table").images) == 12


def test_the_model_loads_in_transformers(trained: tuple[Path, Ended]):
    theirs = transformers.MaskFormerForInstanceSegmentation.from_pretrained(trained[0])
    assert theirs.config.id2label == dict(enumerate(LABELS))


@pytest.mark.faults
def test_a_run_whose_workers_are_killed_goes_on_by_itself_to_the_same_losses(
    jobs: Jobs, config: Path, undisturbed: dict[int, float], tmp_path: Path
):
    after = Moment(at="after put", name="*/step-00000002/checkpoint.json", do="kill self")
    during = Moment(at="before put", name="*/step-00000004/model.safetensors", do="kill self")
    start(jobs, config, tmp_path / "model", moments=[after, during]).end().expect(0)
    assert after.came
    assert during.came
    assert losses(tmp_path / "model") == pytest.approx(undisturbed, rel=1e-5)


def test_a_run_that_is_killed_goes_on_with_the_same_command(
    here: Here, config: Path, trained: tuple[Path, Ended], undisturbed: dict[int, float]
):
    output, ended = trained
    assert "resuming after step 2 of 6" in ended.stderr
    assert losses(output) == pytest.approx(undisturbed, rel=1e-5)
    again = here(finetune.main, config=config, output=output)
    assert again.exit_code == 0, again.stderr


@pytest.mark.faults
def test_a_run_on_ray_whose_driver_is_killed_goes_on_with_the_same_command(
    jobs: Jobs, config: Path, undisturbed: dict[int, float], tmp_path: Path
):
    output = tmp_path / "model"
    moment = Moment(at="before put", name="*/step-00000004/checkpoint.json", do="kill driver")
    killed = start(jobs, config, output, num_workers=1, moments=[moment]).end()
    killed.expect(-signal.SIGKILL)
    ended = start(jobs, config, output).end().expect(0)
    assert "resuming after step 2 of 6" in ended.stderr
    assert losses(output) == pytest.approx(undisturbed, rel=1e-5)


@pytest.mark.faults
def test_the_output_may_be_in_a_bucket(
    jobs: Jobs, config: Path, trained: tuple[Path, Ended], tmp_path: Path
):
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        command = [sys.executable, str(FINETUNE), "--config", str(config)]
        command += ["--output", "s3://test/models/tiny"]
        jobs.start_command(command, environment=server.environment).end().expect(0)
        again = jobs.start_command(command, environment=server.environment).end().expect(0)
        storage = Storage(
            endpoint_url=server.endpoint_url, region="us-east-1", key=KEY, secret=SECRET
        )
        told = storage.read("s3://test/models/tiny/metrics.jsonl").decode().splitlines()
        weights = storage.read("s3://test/models/tiny/model.safetensors")
    lines = [line for line in map(json.loads, told) if line["kind"] == "train"]
    found = {line["step"]: line["loss"] for line in lines}
    assert found == pytest.approx(losses(trained[0]), rel=1e-5)
    assert len(weights) == (trained[0] / "model.safetensors").stat().st_size
    assert "resuming after step 6 of 6" in again.stderr
    assert not again.started_ray


def what_is_wrong(told: Outcome) -> str:
    """The one line on it; on a slow machine, what is being done comes before."""
    assert told.exit_code == 2, told.stderr
    *before, line = told.stderr.splitlines()
    assert all(re.fullmatch(r".*: ([\d,]+ of [\d,]+|\d+ s)", each) for each in before), before
    return line


def test_other_settings_do_not_go_on_with_a_run(
    here: Here, config: Path, trained: tuple[Path, Ended]
):
    told = here(finetune.main, config=config, output=trained[0], learning_rate=0.5)
    assert "learning_rate 0.001 is now 0.5" in what_is_wrong(told)


@pytest.mark.faults
def test_a_gradient_that_is_not_finite_ends_the_run_with_its_step(
    jobs: Jobs, config: Path, tmp_path: Path
):
    options = {"learning_rate": 1e30, "num_workers": 1}
    ended = start(jobs, config, tmp_path / "model", **options).end().expect(2)
    assert "step 2: the gradient must be finite" in ended.stderr


SMALL_PAD = json.dumps({"pad_size": {"height": 32, "width": 32}})


@pytest.mark.faults
def test_what_a_worker_meets_and_would_meet_again_ends_the_run_at_once(
    jobs: Jobs, config: Path, tmp_path: Path
):
    """The model is checked by the first photograph, which is wide and fits; another is tall."""
    tall = {
        "1.png": encode_image(Image.new("L", (48, 64), 1)),
        "1.jpg": encode_image(Image.new("RGB", (48, 64)), "JPEG"),
        "1.json": {"segments_info": [{"id": 1, "label_id": 0}]},
    }
    written(tmp_path / "data", labelled(4, change=tall))
    processor = {"size": {"shortest_edge": 64}, "pad_size": {"height": 64, "width": 96}}
    options = {
        "dataset": tmp_path / "data/all.tar", "image_processor": json.dumps(processor)
    }  # fmt: skip
    ended = start(jobs, config, tmp_path / "model", **options).end().expect(2)
    told = ended.stderr.splitlines()
    assert "finetune: a worker ended with ValueError: an image cannot be padded" in told[-1]
    assert "starting the workers again" not in ended.stderr


@pytest.mark.faults
def test_a_run_that_is_stopped_before_its_first_checkpoint_writes_one(
    jobs: Jobs, config: Path, tmp_path: Path
):
    many = 1_000_000
    output = tmp_path / "model"
    job = start(jobs, config, output, num_steps=many, checkpoint_every=many, log_every=1)
    notes = output / "checkpoints"
    wait_until(
        lambda: any('"doing": "training"' in n.read_text() for n in notes.glob("*/progress.json")),
        what="a step",
    )
    job.process.send_signal(signal.SIGTERM)
    ended = job.end().expect(75)
    assert "stopping after this step, with a checkpoint" in ended.stderr
    assert "stopped; run the same command again to go on" in ended.stderr.splitlines()[-1]
    latest = Checkpoints(str(output), storage=Storage()).latest()
    assert latest is not None
    assert latest.step == max(losses(output))
    assert f"step {latest.step:,} is saved in a checkpoint" in ended.stderr


@pytest.mark.parametrize(
    ("change", "options", "pieces"),
    [
        ({"2.json": {"segments_info": [{"id": 1, "label_id": 7}]}}, {}, ["image all.tar/2", "7"]),
        ({"2.png": b"\x89PNG\r\n\x1a\n"}, {}, ["image all.tar/2"]),
        (
            {},
            {"batch_size": 1},
            ["batch_size must be at least num_workers x micro_batches = 2 x 1, got 1"],
        ),
        ({}, {"model": "nowhere"}, ["'nowhere'"]),
        ({}, {"frozen_weights": "nonsense"}, ["frozen_weights", "'nonsense' matches none"]),
        ({}, {"batch_norm": "synchronised"}, ["batch_norm synchronised needs GPUs"]),
        ({}, {"pad_to": "[32,32]", "image_processor": SMALL_PAD}, ["cannot be padded", "(32, 32)"]),
    ],
    ids=[
        "a label out of range",
        "a truncated map",
        "too few images",
        "no model",
        "a pattern of no weight",
        "no GPU to synchronise",
        "a small pad size",
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_starts(
    here: Here, config: Path, tmp_path: Path, change: dict, options: dict, pieces: list[str]
):
    written(tmp_path / "data", labelled(4, change=change))
    place = {"config": config, "output": tmp_path / "model", "dataset": tmp_path / "data/all.tar"}
    line = what_is_wrong(here(finetune.main, **{**place, **options}))
    assert all(piece in line for piece in ["finetune: ", *pieces]), line
