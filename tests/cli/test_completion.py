"""`bdia completion`: what a shell offers behind a cursor."""

import shutil
import subprocess
import sys

import pytest

from bdia.cli.completion import candidates
from bdia.cli.main import VERBS, main
from helpers.verbs import own_arguments


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("tr", ["train", "translate"]),
        ("", list(VERBS)),
        ("train sta", ["stack.gamma=", "stack.keep=", "stack="]),
        ("train seed=1 stack=bdi", ["stack=bdia", "stack=bdia_pretrained"]),
        ("sweep gamma@stack.gamma=ha", ["gamma@stack.gamma=half", "gamma@stack.gamma=half_per_batch"]),
        ("sweep paths", ["paths.results=", "paths.runs="]),
        ("train hydra", ["hydra.launcher.n_jobs=", "hydra/launcher="]),
        ("plan stack", ["stack.gamma=", "stack.keep=", "stack="]),
        ("bench cu", ["curve_depth=", "curve_model="]),
        ("bench q", ["quick="]),
        ("reproduce s", ["scale=", "seeds="]),
        ("generate te", ["temperature="]),
        ("report experiment=d", []),
        ("dance a", []),
        ("train nothing=", []),
    ],
)
def test_verbs_keys_and_files_are_offered(line, wanted):
    assert sorted(candidates(line)) == sorted(wanted)


@pytest.mark.parametrize("verb", VERBS)
def test_every_argument_of_a_verb_is_offered(verb):
    assert {f"{key}=" for key in own_arguments(verb)} <= set(candidates(f"{verb} "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_function_of_each_shell_asks_this_command(shell, capsys):
    main(["completion", f"shell={shell}"])
    assert "bdia completion words=" in capsys.readouterr().out


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "shell=tcsh"])
    assert capsys.readouterr().err == "error: shell=tcsh: wanted one of bash, zsh, fish; set shell\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_the_word_before_the_cursor(tmp_path, capsys):
    main(["completion"])
    command = tmp_path / "bdia"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bdia.cli "$@"\n')
    command.chmod(0o755)
    ask = 'COMP_LINE="bdia train stack=revv"; COMP_POINT=${#COMP_LINE}; _bdia; echo "${COMPREPLY[@]}"'
    script = f'PATH="{tmp_path}:$PATH"\n{capsys.readouterr().out}\n{ask}\n'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "revvit\n"
