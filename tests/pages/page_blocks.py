"""Reads the blocks of code in a page: commands, snippets in three languages, and text."""

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
PROGRAMS = frozenset(
    {
        "maskformer", "python", "make", "pip", "eval", "export", "duckdb", "ray", "docker",
        "kubectl", "mogrify", "yolo",
    }
)  # fmt: skip
"""What the first word of a command may be."""
NOT_CODE = frozenset({"text", "yaml", "json", "nginx"})
"""Names of blocks that hold no command."""
_SQL = re.compile(r"(SELECT|FROM|CREATE|COPY|WITH)\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code in a page."""

    page: str
    """The page's path below the checkout."""
    line: int
    kind: str
    """shell, python, sql, javascript, or a name of `NOT_CODE`."""
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, each in one line."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.split("#")[0].strip()]


def pages() -> list[str]:
    """All READMEs of the checkout."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("README.md"))
    made = ("build", "demo")
    return sorted(str(p) for p in found if p.parts[0] not in made and p.parts[0][0] != ".")


def blocks_of(page: str) -> list[Block]:
    """Returns the blocks of a page in order.

    Raises:
        ValueError: it cannot be told what an indented block holds.
    """
    found = []
    for token in MarkdownIt().parse((ROOT / page).read_text()):
        if token.type in ("fence", "code_block") and token.map is not None:
            line = token.map[0] + 1
            kind = _kind(token.info.strip(), token.content, place=f"{page}:{line}")
            found.append(Block(page=page, line=line, kind=kind, text=token.content))
    return found


def _kind(info: str, text: str, *, place: str) -> str:
    if info:
        if info in NOT_CODE or info in ("python", "sql", "javascript"):
            return info
        raise ValueError(f"{place}: no test knows blocks named {info}")
    first = next((line for line in text.splitlines() if line.split("#")[0].strip()), "")
    if first.split()[0] in PROGRAMS:
        return "shell"
    if _SQL.match(first):
        return "sql"
    if all(re.match(r"\w+: \S", line) for line in text.splitlines()):
        return "yaml"  # settings, as a model's card lists them
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(
            f"{place}: this is no command, SQL or Python; put it between ```text and ```, or add "
            f"the program to PROGRAMS: {first.strip()}"
        ) from error
    return "python"


def words_of(command: str) -> list[str]:
    """Splits a command as a shell does, without its comment."""
    return shlex.split(command, comments=True)


def inline_code(page: str) -> Iterator[str]:
    """Yields what stands between backticks in the text of a page."""
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text()):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page: str) -> Sequence[str]:
    """Returns the targets of links and pictures of a page."""
    found = []
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text()):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                found.append(str(target))
    return found


def anchors(page: str) -> set[str]:
    """Returns the names that links to the headings of a page may have, as GitHub makes them."""
    tokens = MarkdownIt().parse((ROOT / page).read_text())
    heads = [
        tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
