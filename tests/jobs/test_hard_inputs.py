"""Files as tools and cameras really write them: what comes of each kind, as a table.

The inputs were drawn by code and lie beside this file: `labelling.tar.gz` and `training.tar.gz`. A
size is that of an image with a row of status ok, a word the class of its error. `WRONG` gives what
the one line of a run that is refused has to say.
"""

import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from job_runs import ROOT, Here, Jobs, words
from small_training import SMALL_MODEL
from table_rows import rows_of

from jobs import finetune, segment_corpus

HARD_INPUTS = Path(__file__).parent / "hard_inputs"
A, B, C, D = (256, 320), (240, 320), (320, 256), (192, 320)
"""Sizes of the four scenes that were drawn."""

ROWS: dict[str, dict[str, Any]] = {
    "Dots in the names of a tar's members: the last ending counts.": {
        "tar-dots-some/photos.tar/a": A,
        "tar-dots-some/photos.tar/IMG_0001.v2": B,
        "tar-dots-some/photos.tar/22.05": C,
        "tar-dots-some/photos.tar/b": D,
    },
    "Hard and symbolic links in a tar are the images that they lead to.": {
        "tar-hardlink/photos.tar/a": A,
        "tar-hardlink/photos.tar/b": A,
        "tar-hardlink/photos.tar/c": A,
        "tar-hardlink/photos.tar/d": B,
    },
    "A tar's endings are a folder's; known formats that are not read are rows.": {
        "tar-heic/photos.tar/a": A,
        "tar-heic/photos.tar/b": B,  # .jfif
        "tar-heic/photos.tar/c": C,  # .jpe
        "tar-heic/photos.tar/d": D,  # .JPG
        "tar-heic/photos.tar/e": (2, 2),  # .pgm
        "tar-heic/photos.tar/IMG_1": "UnsupportedFormat",  # .HEIC
        "tar-heic/photos.tar/raw": "UnsupportedFormat",  # .DNG
    },
    "img2dataset's tars; the Parquet files beside them hold no images.": {
        "img2dataset-embeddings/00000.tar/000000000": A,
        "img2dataset-embeddings/00000.tar/000000001": B,
        "img2dataset-embeddings/00001.tar/000010000": C,
        "img2dataset-embeddings/00001.tar/000010001": D,
    },
    "Links in a folder are followed, loops are not; one that dangles is a row.": {
        "symlinks/real/a.jpg": A,
        "symlinks/link-to-file.jpg": A,
        "symlinks/link-to-dir/b.jpg": A,
        "symlinks/link-to-dir/sub/c.jpg": A,
        "symlinks/dangling.jpg": "NotFound",
        "elsewhere/b.jpg": A,
        "elsewhere/sub/c.jpg": A,
    },
    "A name that begins with an underscore hides nothing, one with a dot does.": {
        "names-underscore/IMG_1.jpg": A,
        "names-underscore/_DSC0001.JPG": A,
        "names-underscore/_MG_1234.jpg": A,
    },
    "A name is opened as it was listed.": {
        "names-double-colon/plain.jpg": A,
        "names-double-colon/x::y.jpg": A,
    },
    "Parquet: a dictionary, all images of a list, rows without bytes.": {
        "parquet-types/dictionary.parquet/0": A,
        "parquet-types/dictionary.parquet/1": B,
        "parquet-types/nested-list.parquet/0/0": A,
        "parquet-types/nested-list.parquet/0/1": B,
        "parquet-types/hf.parquet/0": A,
        "parquet-types/hf.parquet/1": "EmptyFile",
        "parquet-types/hf.parquet/2": "EmptyFile",
        "parquet-types/hf.parquet/3": "EmptyFile",
        "parquet-types/hf.parquet/4": B,
    },
    "Paths without bytes from another machine; the hub's cache holds links alone.": {
        **{f"hf-to_parquet/data/train-00000-of-00001.parquet/{n}": "EmptyFile" for n in range(3)},
        **{
            "hf-hub-cache/datasets--x--y/snapshots/abc/data/"
            f"train-00000-of-00001.parquet/{n}": "EmptyFile"
            for n in range(3)
        },
    },
    "Without --key_column, rows of Parquet are told apart by their places.": {
        **{f"parquet-keys/a.parquet/{n}": size for n, size in enumerate((A, B, C, D))},
        **{f"parquet-keys/b.parquet/{n}": size for n, size in enumerate((B, C, D, A))},
        **{f"parquet-keys-groups/a.parquet/{n}": size for n, size in enumerate((A, B, C, D))},
    },
    "Manifests of all writings, beside the images that they name, which are taken once.": {
        **{
            f"{kind}/i/p{n}.jpg": A
            for kind in (
                "man-csv-dup-ids", "man-csv-huge-field", "man-csv-semicolon", "man-csv-upper",
                "man-csv-url-column", "man-jsonl-bom", "man-tsv",
            )
            for n in range(3)
        },
        "man-vanish/i/p0.jpg": A,
        "man-vanish/i/p1.jpg": B,
    },
    "An entry that leads nowhere costs its own row.": {
        "man-one-bad/i/p0.jpg": A,
        "man-one-bad/i/p0.jpg/x.jpg": "NotFound",
        "ipfs://Qm/x.jpg": "BadLocation",
    },
    "Pixels: right, or refused by what they are.": {
        "pixels/00-plain-gray.png": A,
        "pixels/00-plain.png": A,
        "pixels/dng-like-thumbnail-first.tif": A,
        "pixels/heic.heic": "UnsupportedFormat",
        "pixels/jp2-lossless.jp2": A,
        "pixels/jpeg-12bit.jpg": "UnsupportedPixels",
        "pixels/jpeg-half-eoi.jpg": "TruncatedImage",
        "pixels/png-big-ztxt.png": A,
        "pixels/png-crc-pHYs.png": A,
        "pixels/tiff-float32-gray-0to1.tif": A,
        "pixels/tiff-float64-rgb.tif": "UnsupportedPixels",
        "pixels/tiff-lerc.tif": "UnsupportedPixels",
        "pixels/tiff-uint16-gray-12bit-range.tif": "UnsupportedPixels",
        "pixels/tiff-uint16-rgb-planar.tif": A,
        "pixels/tiff-uint32-gray.tif": A,
        "pixels/tiff-uint8-13band-minisblack.tif": "UnsupportedPixels",
    },
}  # fmt: skip
"""By kind, what each image of the labelling side becomes."""

COUNTED = {
    # One is a member without an ending, one the blob of the hub's cache, two img2dataset's JSONs.
    "of no known kind": 4,
    "hidden": 3,
    "without a column of images or of locations called uri": 3,
}
"""By reason, what could be an image and is no row."""

REFUSED = {
    "man-csv-open-quote/m.csv": ["m.csv, line 2", "close each field"],
    "man-csv-open-quote": ["m.csv, line 2"],
    "man-one-bad/cut.jsonl": ["cut.jsonl, line 2", "JSON object"],
    "man-csv-dup-ids/m.csv": ["'a' is that of", "i/p0.jpg and", "i/p1.jpg", "give each its own"],
}
"""Corpora that end with exit code 2 and one line."""


def unpacked(side: str, folder: Path) -> Path:
    with tarfile.open(HARD_INPUTS / f"{side}.tar.gz") as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder / side


@pytest.fixture(scope="session")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("labelling", tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("training", tmp_path_factory.mktemp("hard"))


def test_each_image_is_the_row_that_the_table_of_kinds_says_or_is_counted(
    jobs: Jobs, here: Here, usual: dict[str, Any], labelling: Path, tmp_path: Path
):
    for place, pieces in REFUSED.items():
        options = {"corpus": labelling / place, "table": tmp_path / "none", "model": usual["model"]}
        line = here(segment_corpus.main, **options).one_line
        assert all(piece in line for piece in pieces), line
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    left_out = {Path(place).parts[0] for place in REFUSED if "/" not in place} | {"http"}
    for folder in labelling.iterdir():
        if folder.name not in left_out:
            folder.rename(corpus / folder.name)
    (corpus / "man-one-bad/cut.jsonl").unlink()
    options = {"corpus": corpus, "table": tmp_path / "table", "error_budget": 1, **usual}
    ended = jobs.run(local=True, **options).expect(3)
    expected = {image: outcome for kind in ROWS.values() for image, outcome in kind.items()}
    rows = rows_of(tmp_path / "table").images
    assert len(rows) == len(expected)
    found = {row["image_id"]: row["error_class"] or (row["height"], row["width"]) for row in rows}
    assert found == expected
    counts = {reason: said["count"] for reason, said in ended.report["passed_over"].items()}
    assert counts == COUNTED
    for reason, said in ended.report["passed_over"].items():
        assert f"({reason}), for example {said['examples'][0]}" in ended.stdout


LEARNT = "2 images show 2 of 2 labels"
SKIP = ["1 of 4 annotations has no usable segmentation", "--skip_unusable"]
LEFT_OUT = ["1 of 4 annotations has no usable segmentation and is left out: annotation 2 of image"]
MANY = ["150 objects are not learnt", "1.jpg has 150", "num_queries"]
AGAIN = "by the end of the name or in another spelling"

TRAINED: dict[str, list[str]] = {
    "good": [LEARNT],
    # Places: found without doubt, and said.
    "names_absolute": [LEARNT, "/home/user/data/names_absolute/images/1.jpg is ", AGAIN],
    "names_backslash": [LEARNT, "sub\\1.jpg is ", AGAIN],
    "names_case": [LEARNT, "1.JPG is ", AGAIN],
    "names_dotslash": [LEARNT, "./1.jpg is ", AGAIN],
    "names_nfd": [LEARNT, AGAIN],
    "cvat": [LEARNT, "cvat/annotations/instances_default.json"],
    # Silence that is none now: crowds, and objects for which there are no queries.
    "overlap": ["1 of 4 objects is a crowd and is not learnt"],
    "many": MANY,
    # Maps: whatever way their labels, names and colours are stored.
    "map_id2label": [LEARNT],
    "map_mask_suffix": [LEARNT],
    "map_png_both": [LEARNT],
    "map_rgb": [LEARNT],
    "pan_palette": [LEARNT],
    "pan_rgba": [LEARNT],
    # Fewer categories in one file than in another.
    "subset/train.json": ["2 images show 2 of 3 labels", "no image shows person"],
    "subset/val.json": [LEARNT],
    "subset/val_order.json": ["2 images show 2 of 3 labels", "no image shows ball"],
}
"""Data that are learnt from, and what is said of them."""

SKIPPED: dict[str, list[str]] = {
    "emptyseg/instances.json": ["annotations[1].segmentation (annotation 2 of image", "got []"],
    "emptyseg/instances10.json": ["got []"],
    "flatpoly": ["each in a list of its own", "got [50, 20, 80, 20, 80, 60, 50, 60]"],
    "noseg": ["got nothing"],
    "poly_nan": ["segmentation[0][2]", "must be a number", "NaN"],
    "poly_null": ["segmentation[0][2]", "must be a number, got null"],
    "poly_unit": ["must be in pixels, not in shares of the image"],
    "rlenegative": ["segmentation.counts[1]", "must be in 0 to 6144", "got -50"],
    "rlenocounts/instances.json": ["must have counts"],
    "rlenocounts/instances10.json": ["must have counts"],
    "segnull": ["got null"],
}
"""One annotation without a usable segmentation: refused by name, left out by --skip_unusable."""

WRONG: dict[str, list[str]] = {
    "area_string": ["annotations[1].area", 'got "900.0"', "quotation marks"],
    "catlist": ["annotations[1].category_id", "got [1]"],
    "catsamename": ["categories[2].name", 'got "car"', "categories[0]"],
    "catstrings": ["annotations[0].category_id", 'got 1; there it is "1"', "write both alike"],
    "crowd_string": ["annotations[1].iscrowd", 'the number 0 or 1, got "0"'],
    "emptyseg": ["holds 2 COCO JSONs", "name one of them by --dataset"],
    "filenull": ["images[0].file_name", "got null"],
    "filetwice": ["images[1].file_name", "images[0] (1.jpg) has the same"],
    "firstphotomissing": ["image 3.jpg", "images/3.jpg", "--images"],
    "imageidtwice": ["images[1].id (2.jpg)", "images[0] (1.jpg) has the same"],
    "map_binary255": ["12.5 % of the pixels", '"255": "lesion"', "--ignore_index 255"],
    "map_gaps": ["annotations/1.png", "holds 7, 24", '{"7": "road", "24": "person"}'],
    "map_nolabels": ["labels.json", "--labels"],
    "pan_isthingstr": ["categories[0].isthing (car)", 'got "1"'],
    "rlenocounts": ["holds 2 COCO JSONs"],
    "size_null": ["holds 2 COCO JSONs"],
    "size_null/instances.json": ["images[0].height", "got null"],
    "size_null/instances10.json": ["images[0].height", "got null"],
    "size_string": ["images[0].height", 'got "64"', "quotation marks"],
    "subset": ["holds 3 COCO JSONs"],
}
"""Data that are refused with exit code 2 and one line, and what it says."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    settings = {"num_steps": 2, "batch_size": 2, "num_workers": 1, "loader_processes": 0}
    path.write_text(yaml.safe_dump({**SMALL_MODEL, **settings}))
    return path


def test_each_data_set_is_learnt_or_refused_as_the_tables_say(
    here: Here, config: Path, training: Path, tmp_path: Path
):
    folders = {Path(place).parts[0] for place in (*TRAINED, *SKIPPED, *WRONG)}
    assert folders == {folder.name for folder in training.iterdir()}

    unexpected: list[str] = []

    def check(place: str, *, exit_code: int, pieces: list[str], **options: Any) -> None:
        output = tmp_path / "output" / place / str(len(options))
        told = here.up_to_ray(
            finetune.main, config=config, dataset=training / place, output=output, **options
        )
        said = told.stderr if exit_code == 0 else told.stderr.splitlines()[-1]
        if told.exit_code != exit_code or not all(piece in said for piece in pieces):
            unexpected.append(f"{place}: {told.exit_code}: {told.stderr}")

    for place, pieces in TRAINED.items():
        check(place, exit_code=0, pieces=pieces)
    for place, pieces in SKIPPED.items():
        check(place, exit_code=2, pieces=["finetune: ", ".json: ", *pieces, *SKIP])
        check(place, exit_code=0, pieces=LEFT_OUT, skip_unusable=True)
    for place, pieces in WRONG.items():
        check(place, exit_code=2, pieces=["finetune: ", *pieces])
    assert not unexpected, "\n".join(unexpected)


@pytest.mark.faults
def test_what_the_tables_say_is_what_the_whole_job_does(
    jobs: Jobs, config: Path, training: Path, tmp_path: Path
):
    command = [sys.executable, str(ROOT / "jobs" / "finetune.py")]
    options = {"config": config, "dataset": training / "poly_nan"}
    refused = jobs.start_command([*command, *words({**options, "output": tmp_path / "none"})]).end()
    assert refused.expect(2).stderr.splitlines()[-1].startswith("finetune: ")
    assert not refused.started_ray
    options = {**options, "output": tmp_path / "model", "skip_unusable": True}
    ended = jobs.start_command([*command, *words(options)]).end().expect(0)
    assert LEFT_OUT[0] in ended.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()
