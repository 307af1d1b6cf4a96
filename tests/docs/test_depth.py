"""The record of activations against depth, and the figure drawn from it."""

import json
import re
import sys

import pytest

from bdia.bench.studies.largest import LONGEST
from bdia.build import compose
from bdia.reversible.stacks.registry import STACKS
from helpers.places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import memory_depth
from depth_figure import TAKEN_BACK, draw, draw_length, newest_rows
from doc_numbers.documents import newest

STREAM = 2 * 65 * 512  # values of a residual stream of two images


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Peak and held bytes by stack and depth, from a small run of the command, and its figure."""
    folder = tmp_path_factory.mktemp("depth")
    figure = folder / "figure.svg"
    memory_depth.main(["depths=[3,5]", "batch=2", f"out={folder}", f"figure={figure}"])
    (path,) = folder.glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    return {(row["stack"], row["depth"]): row for row in record["rows"]}, figure.read_text(encoding="utf-8")


def test_every_stack_is_measured_and_drawn(measured):
    rows, figure = measured
    assert {stack for stack, _ in rows} == {row.name for row in STACKS}
    assert all(row.label in figure and row.colour in figure for row in STACKS)


@pytest.mark.parametrize(("stack", "bits"), [("checkpoint", 32), ("bdia", 1), ("revvit", 0)])
def test_a_further_block_holds_so_many_bits_per_activation(measured, stack, bits):
    rows, _ = measured
    found = (rows[stack, 5]["held"] - rows[stack, 3]["held"]) / 2
    assert found == pytest.approx(STREAM * bits / 8, abs=64)  # gamma and a sum of bits take some bytes


def test_no_block_keeps_its_activations(measured):
    rows, _ = measured
    for (stack, _), row in rows.items():
        assert "stack.keep=0" in row["overrides"] or "keep" not in compose([f"stack={stack}"]).stack


def test_the_figure_of_depth_is_that_of_the_newest_record():
    drawn = (ROOT / "docs" / "images" / "memory_depth.svg").read_text(encoding="utf-8")
    assert drawn == draw(newest("depth/vit_paper"))  # else: python scripts/memory_depth.py show=<the newest record>


def test_the_record_of_the_figure_holds_the_compared_stacks_and_none_but_those_of_the_registry():
    """A new stack needs no new record; it is drawn once somebody measures it."""
    recorded = {row["stack"] for row in newest("depth/vit_paper")["rows"]}
    assert {"standard", "checkpoint", "checkpoint_two_level", "revvit", "bdia"} <= recorded
    assert recorded <= {row.name for row in STACKS}


def length_rows(*gib):
    """A measured and a planned depth, and a longest text in each memory."""
    row = {"way": "bdia_in_backward", "label": "BDIA, stepped in backward", "question": "depth", "activations": 2**22}
    rows = [row | {"depth": depth, "origin": origin} for depth, origin in ((6, "measured"), (24, "planned"))]
    texts = [row | {"question": "longest text", "gib": at, "largest": 512, "origin": "planned"} for at in gib]
    return rows, [text | {"settings": {"fit_depth": 48}} for text in texts]


def test_a_record_of_depth_and_length_is_one_figure_whose_planned_points_are_hollow():
    figure = draw_length(*length_rows(16.0, 80.0))
    assert figure == draw_length(*length_rows(16.0, 80.0))
    words = (">BDIA</text>", ">measured</text>", ">planned</text>", ">blocks</text>", ">memory, GiB</text>")
    assert all(word in figure for word in words) and "stepped in backward" not in figure
    colour = next(row.colour for row in STACKS if row.name == "bdia").lower()
    points = [line for line in figure.splitlines() if "<use" in line and colour in line]
    hollow = [line for line in points if "fill-opacity: 0" in line or "fill: none" in line]
    assert (len(points), len(hollow)) == (4, 3)


def test_the_figure_is_readable_on_light_and_dark_pages():
    figure = draw_length(*length_rows(16.0))
    assert "prefers-color-scheme: dark" in figure and "currentColor" in figure
    assert not re.search(r"(fill|stroke): #(000000|ffffff)", figure)


def test_the_figure_of_the_readme_is_that_of_the_newest_records_of_depth_and_length():
    drawn = (ROOT / "docs" / "images" / "length.svg").read_text(encoding="utf-8")
    assert drawn == draw_length(newest_rows("depth"), newest_rows(LONGEST))  # else: python scripts/depth_figure.py


def test_planned_rows_that_the_records_readme_takes_back_are_not_drawn():
    text = (ROOT / "results" / "length" / "README.md").read_text(encoding="utf-8")
    for commit, way, origin in TAKEN_BACK:
        assert commit in text and way in text and origin in text
        (path,) = (ROOT / "results" / "length").glob(f"*_{commit}.json")
        (own,) = [row for row in json.loads(path.read_text())["rows"] if row["way"] == way and row["origin"] == origin][
            :1
        ]
        drawn = [{key: row[key] for key in own} for row in newest_rows("depth") if own.keys() <= row.keys()]
        assert own not in drawn


def test_each_half_is_drawn_from_the_newest_record_that_has_it(tmp_path):
    for name, question, value in (("1", "depth", 1), ("2", "depth", 2), ("3", LONGEST, 3)):
        record = {"rows": [{"question": question, "value": value}], "settings": {"fit_depth": value}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record | {"git": {"sha": "0" * 40}}))
    assert [row["value"] for row in newest_rows("depth", tmp_path)] == [2]
    assert newest_rows(LONGEST, tmp_path) == [{"question": LONGEST, "value": 3, "settings": {"fit_depth": 3}}]
