"""The pages of the documentation, what stands in them outside of markers, and the commands in them."""

import re
from pathlib import Path
from typing import NamedTuple

from helpers.places import ROOT

MARKED = re.compile(r"<!-- number: .*?<!-- /number -->|<!-- table: .*?<!-- /table -->", re.DOTALL)
BLOCK = re.compile(r"(?:<!-- (?P<note>(?:needs|test): [^>]*) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:bdia [a-z]|make [a-z]|python )[^`]*)`")
NEEDS = {"network", "minutes", "files", "GPU"}


class Command(NamedTuple):
    """One command of a page; `note` is what the comment above its block says."""

    page: str
    words: str
    note: str


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and docs/, without the pages that a script writes whole."""
    written_by_scripts = {"families.md"}
    docs = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in written_by_scripts]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def unmarked(text: str) -> str:
    """The text without marked numbers and tables, and without blocks of code."""
    return BLOCK.sub("", MARKED.sub("", text))


def commands() -> list[Command]:
    """Every command in a block `sh`, or in the running text between backquotes."""
    found = []
    for path in pages():
        text, page = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        for block in BLOCK.finditer(text):
            if block["kind"] == "sh":
                lines = [re.sub(r"\s+#.*", "", line).strip() for line in block["text"].splitlines()]
                found += [Command(page, line, block["note"] or "") for line in lines if line and line[0] != "#"]
        found += [Command(page, words, "text") for words in INLINE.findall(BLOCK.sub("", MARKED.sub("", text)))]
    return found
