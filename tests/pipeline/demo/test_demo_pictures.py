"""Pictures of the READMEs: each is there, small, and one that a program makes."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.demo import pictures

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "pipeline" / "demo"
_SHOWN = re.compile(r"!\[[^\]]*\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def shown_pictures() -> dict[Path, Path]:
    """The pictures that READMEs show, and a page that shows each."""
    found = {}
    pages = [ROOT / "README.md", *(page for top in ("maskformer", "pipeline", "jobs", "tests")
                                   for page in (ROOT / top).rglob("*.md"))]  # fmt: skip
    for page in pages:
        for names in _SHOWN.findall(page.read_text()):
            found[(page.parent / "".join(names)).resolve()] = page
    return found


def test_every_picture_that_a_readme_shows_is_made_by_the_program() -> None:
    shown = shown_pictures()
    assert len(shown) >= 4
    for picture, page in shown.items():
        assert picture.parent == FOLDER, f"{page} shows {picture}"
        assert picture.name in pictures.PICTURES, f"{page} shows {picture.name}"


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_every_picture_is_there_and_small(name: str) -> None:
    file = FOLDER / name
    assert file.stat().st_size < pictures.MOST_BYTES
    pixels = np.asarray(Image.open(file).convert("L"))
    assert min(pixels.shape) >= 400
    assert pixels.std() > 5, "the picture is blank"


def test_light_and_dark_are_apart() -> None:
    for name in ("gallery", "review", "report"):
        light, dark = (
            np.asarray(Image.open(FOLDER / f"{name}-{scheme}.webp").convert("L")).mean()
            for scheme in ("light", "dark")
        )
        assert light > dark + 40, name


def test_a_folder_that_is_no_demo_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pictures.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is no folder of `maskformer demo`" in capsys.readouterr().err
