"""Each old YAML of a published recipe gives the settings that `--recipe NAME` gives."""
from pathlib import Path
import pytest
from maskformer import MODELS
from pipeline.runtime.settings import parse
from pipeline.training.recipes import recipe_comment, recipe_settings
from pipeline.training.settings import PARTS
FOLDER = Path("configs/finetune")
OTHERS = ["--dataset", "data", "--output", "out", "--validation", "val"]

@pytest.mark.parametrize("name", [name.removeprefix("maskformer-") for name in MODELS])
def test_same(name):
    path = FOLDER / f"{name}.yaml"
    old = parse(PARTS, arguments=["--config", str(path), *OTHERS])
    assert parse(PARTS, arguments=OTHERS, preset=recipe_settings(name)) == old
    head = "".join(line + "\n" for line in path.read_text().splitlines()[:4])
    assert recipe_comment(name) == head.replace(f"jobs/finetune.py --config configs/finetune/{name}.yaml", f"maskformer train --recipe {name}")
def test_all():
    assert len(MODELS) == 24
    assert {p.stem for p in FOLDER.glob("*.yaml")} - {"camvid","sample"} == {n.removeprefix("maskformer-") for n in MODELS}
