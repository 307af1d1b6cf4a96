"""Fill the numbers of README.md, CONTRIBUTING.md and docs/ from the records in results/.

Usage: python scripts/fill_numbers.py [check=true] [FILE ...]

  check=true   change nothing; list what differs from the records and exit with 1

A number stands between `<!-- number: WORDS as FORMAT -->` and `<!-- /number -->`; FORMAT is Python's, `.2f` if left
out. Such a marker never begins a line: Markdown would end the paragraph there.
A table stands between `<!-- table: WORDS -->` and `<!-- /table -->`. `doc_numbers/sources.py` and `tables.py` say
which words name what.
"""

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from doc_numbers.common import UnknownNumberError
from doc_numbers.sources import number
from doc_numbers.tables import table

from bdia.results.statistics import Spread

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(<!-- number: (.*?)(?: as (.*?))? -->)(.*?)(<!-- /number -->)", re.DOTALL)
TABLE = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the files that may hold markers."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def number_text(words: str, form: str | None = None) -> str:
    """Return the number as text; of several seeds "mean ± std"."""
    value, form = number(words), form or ".2f"
    if isinstance(value, str):
        return value
    if isinstance(value, Spread):
        text = format(value.mean, form)
        return text if not value.std > 0 or not float(format(value.std, form)) else f"{text} ± {value.std:{form}}"
    return format(value, form)


def filled(text: str) -> str:
    """Return the page with every marked number and table as the records have it.

    Raises:
        UnknownNumberError: a marker names nothing that the records hold, or is not closed.
    """
    for kind in ("number", "table"):
        if text.count(f"<!-- {kind}: ") != text.count(f"<!-- /{kind} -->"):
            raise UnknownNumberError(f"a marker of a {kind} is not closed, or closed twice")
    if re.search(r"^<!-- number: ", text, re.MULTILINE):
        raise UnknownNumberError("a marker of a number begins a line: put it behind a word")
    text = TABLE.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[4]}", text)
    return NUMBER.sub(lambda found: f"{found[1]}{number_text(found[2], found[3])}{found[5]}", text)


def differences(old: str, new: str) -> list[str]:
    """Return the lines that differ, as they stand (-) and as they should be (+)."""
    found = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return [line for line in found if not line.startswith(("---", "+++", "@@"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    check = "check=true" in words
    wrong = 0
    for path in [Path(word) for word in words if "=" not in word] or pages():
        old = path.read_text(encoding="utf-8")
        try:
            new = filled(old)
        except UnknownNumberError as error:
            print(f"error: {path.name}: {error}", file=sys.stderr)
            wrong += 1
            continue
        if old == new:
            continue
        if check:
            wrong += 1
            print(f"{path.name}: differs from the records; run python scripts/fill_numbers.py", file=sys.stderr)
            print("\n".join(differences(old, new)), file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
            print(f"{path.name}: filled")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
