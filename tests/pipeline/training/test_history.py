"""What a run writes down, and what is left of it when it goes on."""

import json
from pathlib import Path

from PIL import Image

from pipeline.storage import Storage, join
from pipeline.training.announcer import Announcer
from pipeline.training.checkpoint import Checkpoints, checkpoint_name
from pipeline.training.curves import curves
from pipeline.training.export import ModelCard, export_model
from pipeline.training.history import History, format_line, read_history
from pipeline.training.history_display import HistoryDisplay


def line(step: int, loss: float = 1.5) -> dict:
    return {
        "step": step,
        "kind": "train",
        "loss": loss,
        "losses": {"dice": loss / 2, "dice_0": loss / 2},
        "learning_rate": 1e-4,
        "grad_norm": 2.0,
        "images_per_second": 3.0,
        "data_wait": 0.01,
        "left_out": 0,
    }


def write(place: tuple[Storage, str], steps: range, *, first_step: int = 0) -> None:
    storage, output = place
    history = History(output, storage=storage, first_step=first_step)
    for step in steps:
        history.add(line(step))
    history.add_picture("worst", Image.new("RGB", (8, 8)), step=steps[-1])
    history.close()


def test_a_run_that_goes_on_drops_what_came_after_its_first_step(place: tuple[Storage, str]):
    write(place, range(1, 8))
    write(place, range(5, 10), first_step=4)
    storage, output = place
    assert [each["step"] for each in read_history(output, storage=storage)] == [*range(1, 10)]
    events = [file.uri for file in storage.files(join(output, "events"))]
    assert len(events) == 2
    assert all(b"train/losses/dice" in storage.read(uri) for uri in events)


def test_what_is_not_finite_is_null_and_said_in_words(tmp_path: Path):
    history = History(str(tmp_path), storage=Storage(), first_step=0)
    history.add(line(1, loss=float("nan")))
    history.close()
    [found] = read_history(str(tmp_path), storage=Storage())
    assert found["loss"] is None
    assert "loss not finite (dice not finite" in format_line(found)


def test_lines_reach_the_terminal_once_and_those_that_come_again_are_told_of(tmp_path, capsys):
    place = (Storage(), str(tmp_path))
    write(place, range(1, 3))
    followed = HistoryDisplay(str(tmp_path), storage=Storage(), announcer=Announcer(), num_steps=9)
    with followed:
        write(place, range(3, 6), first_step=2)
        followed.look()
        Path(tmp_path, "metrics.jsonl").write_text(
            "".join(f"{json.dumps(line(step, loss=9.0))}\n" for step in (1, 2, 3))
        )
    told = capsys.readouterr().err.splitlines()
    assert [each.split("  ")[0] for each in told[:3]] == ["step 3", "step 4", "step 5"]
    assert told[3] == "the workers were started again after step 0"


def test_curves_show_losses_rate_and_scores():
    lines = [line(step, loss=5 / step) for step in range(1, 40)]
    scores = [{"step": 20, "kind": "validation", "miou": 0.3}]
    assert curves([]).size == (720, 360)
    assert curves(lines).size == (720, 2 * 360)
    assert curves([*lines, *scores]).size == (720, 3 * 360)


def test_the_best_checkpoint_is_delivered_with_a_card(place: tuple[Storage, str], tmp_path: Path):
    storage, output = place
    made = tmp_path / "made"
    made.mkdir()
    for name in ("config.json", "model.safetensors", "training.pt"):
        (made / name).write_text(name)
    checkpoints = Checkpoints(output, storage=storage)
    best = checkpoints.save(
        made,
        uri=join(checkpoints.root, "run", checkpoint_name(7)),
        step=7,
        score=0.5,
        metrics={"miou": 0.5},
        per_label={"sky": 0.75, "car": 0.25},
    )
    card = ModelCard(
        title="boats",
        labels=("sky", "car"),
        things=frozenset({1}),
        task="semantic",
        dataset="data",
        num_images=1234,
        validation="9 images of other data",
        start="a model",
        licence="Apache-2.0",
        recipe={"num_steps": 7},
        is_in_transformers=True,
    )
    export_model(output, storage=storage, best=best, card=card)
    assert storage.read(join(output, "model.safetensors")) == b"model.safetensors"
    names = {file.uri.split("/")[-1] for file in storage.files(output) if "run" not in file.uri}
    assert names == {"config.json", "model.safetensors", "README.md", "curves.png", "report.json"}
    text = storage.read(join(output, "README.md")).decode()
    for piece in ("| miou | 50.0 |", "| sky | 75.0 |", "Apache-2.0", "1,234 images of data",
                  "num_steps: 7", "sky, car (thing)", "9 images of other data",
                  "library_name: transformers"):  # fmt: skip
        assert piece in text, piece
    assert json.loads(storage.read(join(output, "report.json")))["step"] == 7
