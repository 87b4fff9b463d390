"""The page says whether to act, shows unusual images, and is harmed by no name in the corpus."""

import base64
import dataclasses
import io
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import drawn_runs
import pytest
from drawn_runs import (
    LABELS,
    DrawnImage,
    file_source,
    label_earlier_runs,
    label_run,
    new_table,
    photograph,
    published_report,
    report,
    usual_images,
)
from PIL import Image

from pipeline.corpora.sources import Source
from pipeline.nightly.reporting import publish_report
from pipeline.nightly.reporting.page import environment
from pipeline.nightly.settings import ReportSettings
from pipeline.storage import Storage

RUN = "20260120T020000-thisone"

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'onmouseover='alert(1)",
    "</style></title><svg onload=alert(1)>",
    "&lt;b&gt; &amp; &#60;",
    "<!-- ]]> <?php ?>",
    "javascript:alert(1)",
    "a\u202egpj.exe\x00\x1b[31m",
    "two\nlines\r\n<b>",
    "%00{{7*7}}${7*7}",
)
PICTURE = "data:image/jpeg;base64,"
TAGS = {
    "html", "head", "body", "main", "meta", "title", "style", "h1", "h2", "p", "br", "span",
    "strong", "table", "tr", "td", "th", "figure", "figcaption", "img", "svg", "rect", "polyline",
}  # fmt: skip


class Reader(HTMLParser):
    """Collects the text and images of a page as a mail program sees it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.comments: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.comments.append(data)

    def handle_pi(self, data):
        self.comments.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def html_of(table, run_id: str = RUN) -> str:
    return table.storage.read(table.file("_runs", run_id, "report.html")).decode()


def drawn_photos(folder: Path, count: int, **changes) -> list[DrawnImage]:
    folder.mkdir(exist_ok=True)
    images = []
    for number in range(count):
        path = folder / f"{number:03}.jpg"
        path.write_bytes(photograph(number))
        images.append(
            DrawnImage(image_id=path.name, uri=str(path), etag=file_source(path).etag, **changes)
        )
    return images


def label_photos(table, images: list[DrawnImage], run_id: str = RUN) -> None:
    sources = {"now": [file_source(Path(image.uri)) for image in images]}
    label_run(table, run_id, {"now": images}, sources=sources)


def test_hostile_names_are_text_and_nothing_else(tmp_path):
    labels = (*HOSTILE, "road")
    table = new_table(tmp_path, labels=labels)
    label_earlier_runs(table, 2, labels=labels)
    images = [
        DrawnImage(
            image_id=f"{name}{n}",
            uri=f"/data/{n}-{name[:9]}",
            member=name,
            shares={n: 0.3},
            score=0.1,
        )
        for n, name in enumerate(HOSTILE)
    ]
    label_run(table, RUN, {"now": [*images, *usual_images("now", 200, seed=9)]}, labels=labels)
    examples = [{"image_id": name, "message": f"/data/{name}: {name}"} for name in HOSTILE]
    publish_report(
        table,
        RUN,
        report(
            RUN,
            table=f"s3://bucket/{HOSTILE[0]}",
            exit_code=4,
            images_in_error=90,
            errors=dict.fromkeys(HOSTILE, 9),
            error_examples=dict.fromkeys(HOSTILE, examples),
            faults={f"unit-{name}": name for name in HOSTILE},
        ),
        ReportSettings(currency=HOSTILE[1], gpu_hour_price=1.0),
    )
    html = html_of(table)
    page = Reader(html)
    assert {tag for tag, _ in page.tags} <= TAGS
    assert not page.comments
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("src") or PICTURE).startswith(PICTURE)
        assert "href" not in attributes
    text = "".join(page.text)
    # A browser reads the names as they are, but for what cannot be seen.
    for name in HOSTILE[:7]:
        assert name in text
    assert not re.search("[\x00\x1b\u202e]", html)
    assert html.count("<style>") == html.count("</title>") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_markup_is_escaped_in_text_and_attributes(name):
    template = environment().from_string('<p alt="{{ x }}">{{ x }}{{ [x]|join }}</p>')
    page = Reader(template.render(x=name))
    (tag, attributes), *others = page.tags
    assert (tag, others) == ("p", [])
    assert "".join(page.text) == 2 * (attributes["alt"] or "")
    assert environment().from_string("{{ x|safe }}").render(x="<b>") == "<b>"


def test_the_bars_of_a_histogram_stand_at_their_bins():
    charts = environment().get_template("charts.html").module
    (svg, *bars, line) = Reader(charts.histograms([0, 0.25, 0, 0.75], [0.5, 0.5, 0, 0], "x")).tags
    assert svg[1]["aria-label"] == "x"
    assert [(bar["x"], bar["height"]) for _, bar in bars] == [("80.0", "21.3"), ("240.0", "64.0")]
    assert line[1]["points"].split()[:2] == ["0.0,21.3", "80.0,21.3"]


def test_the_page_stands_alone_without_scripts(tmp_path):
    table = new_table(tmp_path)
    label_photos(table, drawn_photos(tmp_path / "photos", 6))
    publish_report(table, RUN, report(RUN), ReportSettings())
    html = html_of(table)
    page = Reader(html)
    assert not {"script", "link", "iframe", "object", "base", "form", "a"} & {
        tag for tag, _ in page.tags
    }
    without_pictures = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", html)
    assert set(re.findall(r"https?://[^\s\"']+", without_pictures)) <= {
        "http://www.w3.org/2000/svg"
    }
    assert "url(" not in html
    assert "@import" not in html
    policies = [a["content"] for _, a in page.tags if "Content-Security-Policy" in a.values()]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize(
    ("changes", "begins", "holds"),
    [
        ({}, "No action needed.", "100 images labelled."),
        (
            {"exit_code": 3, "images_in_error": 7},
            "No action needed.",
            "93 images labelled. 7 images failed, within the error budget.",
        ),
        (
            {"exit_code": 3, "images": 2, "images_in_error": 1},
            "No action needed.",
            "1 image labelled. 1 image failed, within the error budget.",
        ),
        (
            {"exit_code": 4, "images_in_error": 50, "errors": {"NotAnImage": 50}},
            "Action needed.",
            "50 of 100 images failed, more than the error budget allows; the most "
            "frequent error is NotAnImage (50)",
        ),
        (
            {"exit_code": 75, "units_planned": 9, "faults": {"u": "StorageFault: away"}},
            "Action needed.",
            "8 of 9 units are not done: StorageFault: away. Unless a scheduler does "
            "so, run the same command again",
        ),
        (
            {"units_planned": 5, "units_left": 4},
            "No action needed.",
            "4 of 5 units were not begun before the deadline; the next run labels "
            "them.",
        ),
        (
            {"exit_code": 75, "units_planned": 9, "units_left": 6, "faults": {"u": "away"}},
            "Action needed.",
            "2 of 9 units are not done: away.",
        ),
        (
            {
                "exit_code": 75, "units_planned": 1, "files_out_of_reach": 3,
                "files_out_of_reach_examples": ["look at http://h/a.jpg: 503"],
            },
            "Action needed.",
            "Storage could not read 3 files: look at http://h/a.jpg: 503. Unless a "
            "scheduler does so, run the same command",
        ),
    ],
)  # fmt: skip
def test_the_first_line_says_whether_to_act_and_how(tmp_path, changes, begins, holds):
    table = new_table(tmp_path)
    label_run(table, RUN, {"now": usual_images("now", 5, seed=0)})
    publish_report(table, RUN, report(RUN, **changes), ReportSettings())
    page = Reader(html_of(table))
    body = page.words.split("}")[-1].strip()  # after the title and the style
    assert body.startswith(begins)
    assert holds in body.split("Labelling run")[0]
    assert published_report(table, RUN)["must_act"] == (begins == "Action needed.")


def test_errors_are_shown_by_class_with_examples(tmp_path):
    table = new_table(tmp_path)
    label_run(table, RUN, {"now": usual_images("now", 5, seed=0)})
    examples = {
        "EmptyFile": [{"image_id": "a", "message": "/corpus/a: the file is empty"}],
        "NotAnImage": [{"image_id": f"{n}", "message": f"/corpus/{n}: HTML"} for n in range(5)],
    }
    errors = {"NotAnImage": 17, "EmptyFile": 2}
    publish_report(
        table, RUN, report(RUN, exit_code=3, errors=errors, error_examples=examples),
        ReportSettings(),
    )  # fmt: skip
    words = Reader(html_of(table)).words
    assert "NotAnImage 17 /corpus/0: HTML /corpus/1: HTML /corpus/2: HTML EmptyFile 2" in words


def test_the_strangest_images_come_with_their_reasons(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 2)
    usual = usual_images("now", 300, seed=4)
    strange = [
        DrawnImage(image_id="unsure.jpg", shares={0: 0.95}, score=0.2),
        DrawnImage(image_id="bare.jpg", shares={0: 0.05}),
        DrawnImage(image_id="void.jpg", shares={}),
        DrawnImage(image_id="woods.jpg", shares={3: 0.95}),
    ]
    label_run(table, RUN, {"a": [*usual[:150], *strange[:2]], "b": [*usual[150:], *strange[2:]]})
    publish_report(table, RUN, report(RUN), ReportSettings())
    found = published_report(table, RUN)["strangest"]
    assert {row["image_id"] for row in found[:4]} == {image.image_id for image in strange}
    assert len(found) == 10
    assert [row["strangeness"] for row in found] == sorted(
        (row["strangeness"] for row in found), reverse=True
    )
    reasons = {row["image_id"]: " ".join(row["reasons"]) for row in found}
    assert "the model is unsure: mean score 0.20" in reasons["unsure.jpg"]
    assert "segments cover only 5.0% of the image" in reasons["bare.jpg"]
    assert "segments cover only 0.0% of the image" in reasons["void.jpg"]
    assert "labels that were rare in earlier runs" in reasons["woods.jpg"]
    words = Reader(html_of(table)).words
    assert "The 10 most unusual images" in words
    assert "mean score 0.20" in words


def test_of_a_few_images_all_are_shown_each_with_a_reason(tmp_path):
    table = new_table(tmp_path)
    label_run(table, RUN, {"now": usual_images("now", 4, seed=4)})
    publish_report(table, RUN, report(RUN), ReportSettings())
    assert len(published_report(table, RUN)["strangest"]) == 4
    assert all(row["reasons"] for row in published_report(table, RUN)["strangest"])


def test_the_strangest_do_not_depend_on_the_units(tmp_path):
    images = usual_images("now", 200, seed=5)
    found = []
    for name, size in (("one", 200), ("many", 7)):
        table = new_table(tmp_path / name)
        label_earlier_runs(table, 1, images=50)
        units = {f"u{i:03}": images[i : i + size] for i in range(0, len(images), size)}
        label_run(table, RUN, units)
        publish_report(table, RUN, report(RUN), ReportSettings(sheet_images=0))
        found.append(
            [
                (row["image_id"], row["strangeness"])
                for row in published_report(table, RUN)["strangest"]
            ]
        )
    assert found[0] == found[1]
    assert len(found[0]) == 10


def pictures(table) -> list[Image.Image]:
    sources = [a["src"] for tag, a in Reader(html_of(table)).tags if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


def test_pictures_show_images_and_segments(tmp_path):
    table = new_table(tmp_path)
    images = drawn_photos(tmp_path / "photos", 1, shares={1: 0.5})
    label_photos(table, images)
    publish_report(table, RUN, report(RUN), ReportSettings(strangest_images=0))
    (picture,) = pictures(table)
    assert picture.size == (32, 24)
    photo = Image.open(io.BytesIO(photograph(0))).convert("RGB")
    # The segment covers the left half, from the first pixel on, column by column.
    pixels = [(picture.getpixel((x, 3)), photo.getpixel((x, 3))) for x in (4, 28)]
    differences = [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pixels]
    assert differences[0] > 60
    assert differences[1] < 40


def test_images_that_cannot_be_read_any_more_are_shown_as_such(tmp_path):
    table = new_table(tmp_path)
    images = drawn_photos(tmp_path / "photos", 5)
    label_photos(table, images)
    Path(images[0].uri).unlink()
    Path(images[1].uri).write_bytes(photograph(77))
    lines = publish_report(table, RUN, report(RUN), ReportSettings(strangest_images=0))
    assert lines[0] == "No action needed. 100 images labelled."
    words = Reader(html_of(table)).words
    assert words.count("no picture: replaced or gone since it was labelled") == 2
    assert len(pictures(table)) == 3


def test_a_mask_that_is_no_mask_costs_its_picture_alone(tmp_path, monkeypatch):
    table = new_table(tmp_path)
    images = drawn_photos(tmp_path / "photos", 2)
    monkeypatch.setattr(drawn_runs, "_band", lambda *_: "no mask")
    label_photos(table, [dataclasses.replace(images[0], shares={0: 0.5}), images[1]])
    publish_report(table, RUN, report(RUN), ReportSettings(strangest_images=0))
    assert "no picture: cannot be drawn: ValueError" in Reader(html_of(table)).words


def test_images_are_found_in_archives_as_far_as_the_bytes_go(tmp_path):
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for number in range(6):
            member = tarfile.TarInfo(f"{number}.jpg")
            data = photograph(number)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = Storage().file(str(shard))
    source = Source(
        uri=found.uri, name="shard.tar", kind="tar", etag=found.etag, size=found.size, stop=None
    )
    images = [
        DrawnImage(image_id=f"shard.tar/{n}", uri=found.uri, member=f"{n}.jpg", etag=found.etag)
        for n in range(6)
    ]
    table = new_table(tmp_path)
    label_run(table, RUN, {"now": images}, sources={"now": [source]})
    publish_report(table, RUN, report(RUN), ReportSettings(strangest_images=0))
    assert len(pictures(table)) == 6
    most = 2 * len(photograph(0))
    publish_report(table, RUN, report(RUN), ReportSettings(strangest_images=0, picture_bytes=most))
    assert 0 < len(pictures(table)) < 6
    assert f"not within the first {most:,} bytes of its source" in Reader(html_of(table)).words


def test_a_large_report_fits_into_a_letter(tmp_path):
    labels = tuple(f"label {n} {'x' * 300}" for n in range(400))
    table = new_table(tmp_path, labels=labels)
    folder = tmp_path / "photos"
    folder.mkdir()
    images = []
    for number in range(48):
        path = folder / f"{number}{'n' * 200}.jpg"
        noise = Image.effect_noise((1200, 900), 200).convert("RGB")
        noise.save(path, "JPEG")
        images.append(
            DrawnImage(
                image_id=path.name, uri=str(path), etag=file_source(path).etag, size=(900, 1200),
                shares={(number + n) % 400: 0.2 for n in range(4)}, score=0.02 * number,
            )
        )  # fmt: skip
    sources = {"now": [file_source(Path(image.uri)) for image in images]}
    label_run(table, RUN, {"now": images}, sources=sources, labels=labels)
    errors = {f"Class{n}{'e' * 500}": n for n in range(300)}
    examples = {c: [{"image_id": "x", "message": "m" * 5000}] * 5 for c in errors}
    faults = {f"unit{n}": "f" * 5000 for n in range(100)}
    publish_report(
        table,
        RUN,
        report(RUN, exit_code=75, errors=errors, error_examples=examples, faults=faults),
        ReportSettings(strangest_images=24, sheet_images=24),
    )
    assert len(pictures(table)) > 24
    assert max(picture.size[0] for picture in pictures(table)) == 360
    assert len(html_of(table)) < 2_000_000


def test_labels_are_shown_by_area_and_by_count_beside_those_before(tmp_path):
    table = new_table(tmp_path)
    label_earlier_runs(table, 1)
    label_run(table, RUN, {"now": [DrawnImage(image_id=f"{n}") for n in range(300)]})
    publish_report(table, RUN, report(RUN), ReportSettings())
    words = Reader(html_of(table)).words
    road = re.search(r"road (\S+) (\S+) (\S+) (\S+) (\S+) sky", words)
    assert road is not None
    assert [float(x.rstrip("%")) for x in road.groups()] == pytest.approx(
        [52.6, 40, 50, 25, 0.9], abs=1
    )
    assert set(LABELS) <= set(words.split())


def test_a_run_that_had_nothing_to_do_has_a_page_too(tmp_path):
    table = new_table(tmp_path)
    lines = publish_report(
        table, RUN, report(RUN, images=0, segments=0, units_planned=0, units_committed=0),
        ReportSettings(),
    )  # fmt: skip
    assert lines[0] == "No action needed. There were no new images."
    assert "No action needed. There were no new images." in Reader(html_of(table)).words
    assert published_report(table, RUN)["images_labelled"] == 0


def test_report_settings_that_make_no_sense_are_refused():
    for wrong in (
        {"drift_watch": 0.3}, {"gpu_hour_price": -1.0}, {"sheet_images": 100},
        {"webhook_variable": "https://hooks.example.com/secret"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ReportSettings(**wrong)
