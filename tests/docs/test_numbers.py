"""Numbers in README.md and docs/ are those of the records in results/."""

import re
import sys

import pytest

from helpers.doc_pages import pages, unmarked
from helpers.places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import fill_numbers
from doc_numbers.common import UnknownNumberError

UNITS = r"(?:MiB|GiB|MB|nat|%|points|ms|times|minutes|seconds)"
WORDS = r"(?:two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty) (?:minutes|seconds|times)"
MEASURED = re.compile(rf"(?<![\w.=-])(?:\d[\d,]*(?:\.\d+)?(?: / [\d.]+)*(?: ?{UNITS}|x)|{WORDS})(?![\w=])")


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_holds_the_numbers_of_the_records(path):
    text = path.read_text(encoding="utf-8")
    assert fill_numbers.differences(text, fill_numbers.filled(text)) == []  # else: python scripts/fill_numbers.py


def test_there_are_numbers_to_check():
    text = "".join(path.read_text(encoding="utf-8") for path in pages())
    assert text.count("<!-- number: ") >= 30 and text.count("<!-- table: ") >= 15


NUMBER = "test loss <!-- number: run table1_cifar10_cpu bdia test loss as .3f -->1.589 ± 0.002<!-- /number --> nat\n"
TABLE = "<!-- table: runs table1_cifar10_cpu: test loss -->\n\n{}\n<!-- /table -->\n"


def test_a_changed_number_is_reported_and_put_right(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(NUMBER.replace("1.589", "1.588"), encoding="utf-8")
    assert fill_numbers.main(["check=true", str(page)]) == 1
    assert "1.588" in page.read_text(encoding="utf-8") and "page.md: differs" in capsys.readouterr().err
    assert fill_numbers.main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == NUMBER
    assert fill_numbers.main(["check=true", str(page)]) == 0


def test_a_changed_cell_of_a_table_is_reported(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(TABLE.format(""), encoding="utf-8")
    assert fill_numbers.main([str(page)]) == 0
    filled = page.read_text(encoding="utf-8")
    assert "| BDIA | 1.589 ± 0.002 |" in filled
    assert fill_numbers.main(["check=true", str(page)]) == 0
    page.write_text(filled.replace("1.649", "1.648"), encoding="utf-8")
    assert fill_numbers.main(["check=true", str(page)]) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a <!-- number: run no_such bdia test loss --><!-- /number -->", "no_such"),
        ("a <!-- number: run table1_cifar10_cpu bdia test bleu --><!-- /number -->", "not measured"),
        ("a <!-- number: ran table1_cifar10_cpu bdia test loss --><!-- /number -->", "wanted one of"),
        ("a <!-- number: run table1_cifar10_cpu bdia test loss -->", "not closed"),
        ("<!-- number: run table1_cifar10_cpu bdia test loss --><!-- /number -->", "begins a line"),
        ("<!-- table: runs table1_cifar10_cpu: test lose -->\n<!-- /table -->", "lose"),
    ],
)
def test_a_marker_that_names_nothing_is_refused(text, said):
    with pytest.raises(UnknownNumberError, match=said):
        fill_numbers.filled(text)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_measured_number_outside_of_markers_names_its_source(path):
    """`source: ...` stands in the same line, in a comment; for the paper's numbers too."""
    unnamed = []
    for line in unmarked(path.read_text(encoding="utf-8")).splitlines():
        words = re.sub(r"`[^`]*`|95 % (?:t )?interval", "", line)  # code, and the level of an interval
        if "source:" not in line and MEASURED.search(words):
            unnamed.append(line)
    assert unnamed == []


def test_the_scan_for_measured_numbers_sees_them():
    for text in (
        "peak 448.6 MiB",
        "45.36 % of",
        "88.15 / 86.22 / 89.10 %",
        "1.08 times checkpointing",
        "a loss of 1.5 nat",
        "in 30 to 90 minutes",
        "in two minutes",
        "within 24 GiB",
        "1.5x the time",
    ):
        assert MEASURED.search(text), text
    assert not MEASURED.search("memory=24GiB, seed 3, 200 images, 2 x 512 tokens")
