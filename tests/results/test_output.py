"""Lines of a command's progress: printed at once, and never the end of its work."""

import subprocess
import sys

import pytest

from bdia.results.output import say, say_on_stderr

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
