"""Every command and snippet of the READMEs does what the page says, on one set of prepared data.

What starts no cluster is run. What starts Ray is parsed here, and run by `make faults`; what needs
a bucket, a cluster or a download is parsed. `page_commands.py` has the few commands that are
neither, with reasons.
"""

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from page_blocks import ROOT, anchors, blocks_of, inline_code, links, pages, words_of
from page_commands import NOT_RUN, SUBSTITUTED, Runner, with_substitutes
from prepared import prepare

from pipeline.cli.commands import COMMANDS
from pipeline.cli.help import all_options
from pipeline.corpora.error_classes import ERROR_CLASSES
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.options import option_name
from pipeline.table.store import decode_rle, segments

TABLES = "pipeline/table/README.md"
"""Has a test of its own, which looks at the masks."""
TROUBLESHOOTING = "pipeline/README.md"
OUTSIDE = frozenset({"fiftyone", "datumaro", "datasets", "webdataset"})
"""Libraries that are not installed beside the project: snippets with them are parsed alone."""
SLOW = frozenset({"kept_graph"})
"""Names in snippets that take half a minute: parsed here, run by `make faults`."""
NAMES = {"TABLE": "TABLE", "REVIEWS": "TABLE/_reviews", "OUT": "OUT"}
"""Names in snippets of SQL, and the places that they stand for."""
GENERAL = {"help", "help_all", "config", "print_config", "completion", "version"}
OF_OTHER_PROGRAMS = {"build-arg", "num_images"}
JOBS = ("label", "nightly", "evaluate", "train", "demo")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands need; its table is labelled by the command of the README."""
    folder = tmp_path_factory.mktemp("pages")
    commands = (c for b in blocks_of("README.md") if b.kind == "shell" for c in b.commands)
    label = next(command for command in commands if command.startswith("maskformer label "))
    prepare(folder, label=with_substitutes(words_of(label)[1:]))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the prepared folder, which is the working directory."""
    copy = tmp_path / "here"
    shutil.copytree(prepared, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def run_page(page: str, runner: Runner) -> dict[str, Any]:
    """Runs the blocks of a page in order; gives the names that its snippets of Python made."""
    names: dict[str, Any] = {}
    printed = ""
    with contextlib.closing(duckdb.connect()) as database:
        for block in blocks_of(page):
            try:
                if block.kind == "shell":
                    for command in block.commands:
                        runner(command)
                elif block.kind == "python":
                    is_slow = any(name in block.text for name in SLOW)
                    printed = (
                        "" if is_slow and not runner.runs_jobs else run_python(block.text, names)
                    )
                elif block.kind == "sql":
                    database.execute(re.sub(r"\b[A-Z]{3,}\b", in_place, block.text)).fetchall()
                elif block.kind == "text" and printed:
                    assert block.text == printed, "this is not what the snippet prints"
                    printed = ""
            except BaseException as error:
                error.add_note(f"{block.place}\n{block.text}")
                raise
    return names


def in_place(name: re.Match[str]) -> str:
    return NAMES.get(name[0], name[0])


def run_python(text: str, names: dict[str, Any]) -> str:
    """Runs a snippet; gives what it prints."""
    tree = ast.parse(text)
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(str(node.module))])
    }
    if imported & OUTSIDE:
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "<page>", "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize("page", [page for page in pages() if page != TABLES])
def test_the_commands_and_snippets_of_a_page_work(page, folder):
    run_page(page, Runner(page=page, folder=folder))


def test_what_is_not_run_stands_in_some_page():
    commands = [c for p in pages() for b in blocks_of(p) if b.kind == "shell" for c in b.commands]
    for words in NOT_RUN:
        assert any(command.startswith(words) for command in commands), words
    assert {c.split()[0] for c in commands} >= {"maskformer", "python"}
    models = " ".join(commands)
    assert all(name in models for name in SUBSTITUTED)


def pages_with_jobs() -> Iterator[str]:
    for page in pages():
        commands = [c for b in blocks_of(page) if b.kind == "shell" for c in b.commands]
        if any(
            command.startswith(tuple(f"maskformer {job}" for job in JOBS)) for command in commands
        ):
            yield page


@pytest.mark.faults
@pytest.mark.parametrize("page", pages_with_jobs())
def test_the_jobs_of_a_page_run(page, folder):
    runner = Runner(page=page, folder=folder, runs_jobs=True)
    run_page(page, runner)
    assert runner.ran


@pytest.mark.parametrize("page", pages())
def test_options_in_the_text_exist(page):
    options = {option.name for c in COMMANDS.values() for option in all_options(c)} | GENERAL
    for code in inline_code(page):
        words = code.split()
        if words[:1] == ["maskformer"] and len(words) > 1 and words[1].islower():
            assert words[1] in COMMANDS or words[1].startswith("--"), code
        for word in words:
            if re.match(r"--[a-z]", word):
                name = option_name(word.partition("=")[0])
                assert name in options or word[2:] in OF_OTHER_PROGRAMS, code


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page):
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


def test_each_error_class_and_exit_code_has_an_entry():
    text = (ROOT / TROUBLESHOOTING).read_text()
    classes = re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE)
    assert set(classes) == ERROR_CLASSES
    assert len(classes) == len(ERROR_CLASSES)
    codes = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert codes == [str(int(code)) for code in ExitCode]


def test_each_error_class_of_the_list_is_given_by_the_code():
    code = " ".join(
        path.read_text()
        for path in (ROOT / "pipeline").rglob("*.py")
        if path.name != "error_classes.py"
    )
    for name in ERROR_CLASSES:
        assert f'"{name}"' in code, name


def test_the_masks_are_the_same_in_each_language(folder):
    table = "labels"
    rows = segments(table).to_table().to_pylist()
    keys = [(row["image_id"], row["segment_id"]) for row in rows]
    size = {key: (row["height"], row["width"]) for key, row in zip(keys, rows, strict=True)}
    right = {
        key: decode_rle(row["rle"], height=row["height"], width=row["width"])
        for key, row in zip(keys, rows, strict=True)
    }
    assert len(right) > 10

    names = run_page(TABLES, Runner(page=TABLES, folder=folder))
    for key, row in zip(keys, rows, strict=True):
        np.testing.assert_array_equal(
            names["decode"](row["rle"], row["height"], row["width"]), right[key]
        )
    frame, same = names["rows"], names["same"]
    assert len(frame) == len(right) == len(names["masks"])
    for row in frame.itertuples():
        np.testing.assert_array_equal(row.mask, right[row.image_id, row.segment_id])
    for row, mask in zip(same.iter_rows(named=True), names["masks"], strict=True):
        np.testing.assert_array_equal(mask, right[row["image_id"], row["segment_id"]])

    with contextlib.closing(duckdb.connect()) as database:
        for block in blocks_of(TABLES):
            if block.kind == "sql":
                database.execute(block.text).fetchall()
        runs = database.sql("SELECT image_id, segment_id, start, length FROM runs").fetchall()
    flat = {key: np.zeros(height * width, bool) for key, (height, width) in size.items()}
    for image_id, segment_id, start, length in runs:
        flat[image_id, segment_id][start : start + length] = True
    for key, (height, width) in size.items():
        np.testing.assert_array_equal(flat[key].reshape(width, height).T, right[key])


@pytest.mark.skipif(shutil.which("node") is None, reason="the snippet is run by Node")
def test_the_masks_are_the_same_in_javascript(folder):
    (snippet,) = [block.text for block in blocks_of(TABLES) if block.kind == "javascript"]
    (folder / "masks.mjs").write_text(snippet)
    copy = re.search(r"`(COPY .*?)`", (ROOT / TABLES).read_text())
    assert copy is not None
    duckdb.sql(copy[1])
    rows = json.loads(Path("rows.json").read_text())
    script = (
        'import { readFileSync } from "node:fs";\nimport { decode } from "./masks.mjs";\n'
        'for (const row of JSON.parse(readFileSync("rows.json")))\n'
        '    console.log(decode(row.rle, row.height, row.width).join(""));'
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=folder, capture_output=True, text=True, check=True, env={**os.environ},
    )  # fmt: skip
    lines = done.stdout.split()
    assert len(lines) == len(rows) > 10
    for row, line in zip(rows, lines, strict=True):
        mask = np.array([*line], "U1").astype(np.uint8).reshape(row["height"], row["width"])
        right = decode_rle(row["rle"], height=row["height"], width=row["width"])
        np.testing.assert_array_equal(mask, right)
