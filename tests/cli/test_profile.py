"""`bdia profile`: what is alive at the peak, by module and name."""

import re

import pytest

from bdia.cli.main import main
from bdia.cli.profile import Arguments, in_text
from bdia.cli.profile import __doc__ as usage

SMALL = ["model=vit_demo", "model.net.width=32", "model.net.heads=2", "model.net.depth=4", "batch=8"]


def test_help_shows_every_argument():
    assert set(re.findall(r"^  (\w+)=", usage, re.MULTILINE)) >= {"model", *Arguments.__dataclass_fields__}


def test_the_list_names_streams_modules_and_gradients_and_cuts_off_the_smallest(capsys):
    main(["profile", *SMALL, "stack=bdia", "stack.keep=0", "rows=3"])
    out = capsys.readouterr().out
    lines = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert lines[0] == ["alive at the peak", "streams", "made by", "what", "made in"]
    assert len(lines) == 2 + 3 + 2 and "smaller ones" in out and lines[-1][-1] == "all"
    main(["profile", *SMALL, "stack=bdia", "stack.keep=0", "rows=99"])
    out = capsys.readouterr().out
    for found in ("residual stream", "net.tokens.norm", "gradient of weight"):
        assert found in out


def test_the_largest_come_first_and_the_rest_is_one_line():
    made = {("a", "x", "forward"): 2**20, ("b", "y", "backward"): 2**22, ("", "z", "backward"): 2**20}
    lines = in_text(6 * 2**20, made, 2**20, 1).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["4.00", "2.00", "6.00"]
    assert "2 smaller ones" in lines[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch=8"], "model is missing"),
        (["model=vit_demo"], "batch is missing"),
        ([*SMALL, "rows=0"], "rows=0: wanted"),
    ],
)
def test_what_is_missing_or_wrong_is_said(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["profile", *words])
    assert message in capsys.readouterr().err
