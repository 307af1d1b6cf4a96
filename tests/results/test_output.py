"""Lines of a command's progress: printed at once, and never the end of its work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bdia.results.output import say, say_on_stderr

ROOT = Path(__file__).parents[2]

CLOSED = """
import os, sys
from bdia.results.output import say, say_on_stderr
reader, writer = os.pipe()
os.dup2(writer, {number})
os.close(writer), os.close(reader)  # whoever read it has gone
for line in ("one", "two"):
    {say}(line)
print("at the end", file=sys.{stream})
os.write({other}, b"worked on")
"""


@pytest.mark.parametrize(("name", "stream", "number"), [("say", "stdout", 1), ("say_on_stderr", "stderr", 2)])
def test_a_closed_pipe_lets_the_work_go_on_and_nothing_is_complained_of(name, stream, number):
    code = CLOSED.format(say=name, stream=stream, number=number, other=3 - number)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "worked on")


def test_a_line_goes_to_its_stream(capsys):
    say("one")
    say_on_stderr("two")
    assert capsys.readouterr() == ("one\n", "two\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07gone", "\\x1b[2J\\x1b]0;title\\x07gone"),
        ("a\rb\x00\x7f\x9b", "a\\x0db\\x00\\x7f\\x9b"),
        ("two\nlines\tand é 漢 🙂", "two\nlines\tand é 漢 🙂"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text, shown, capsys):
    say(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_a_records_codes_do_not_reach_the_terminal_from_the_report(tmp_path):
    record = json.loads(next((ROOT / "results" / "table1_cifar10_cpu").glob("*.json")).read_text())
    record["device"]["name"], record["experiment"] = "\x1b[31mred", "demo"
    record["config"]["name"] = "demo"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / f"{record['run_id']}.json").write_text(json.dumps(record))
    done = subprocess.run([sys.executable, "-m", "bdia.cli", "report", f"results={tmp_path}"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"demo" in done.stdout and b"\x1b" not in done.stdout + done.stderr
