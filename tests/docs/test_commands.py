"""Every command in README.md, CONTRIBUTING.md and docs/ exists; what is quick is composed or asked for its help.

A command in a block `sh` is checked here word by word. `needs:` above the block says what a whole run would take.
"""

import ast
import re
import shlex
import tomllib

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from bdia.cli.completion import COMPOSING
from helpers.doc_pages import NEEDS, commands, pages
from helpers.places import CONFIGS, ROOT
from helpers.training_helpers import compose_config
from helpers.verbs import own_arguments

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
COMMANDS = commands()
TRAINS = ("bdia train", "bdia sweep", "python -m bdia.train")
OTHER = ("wandb sync", "pip install", "bdia --help")


def of(*beginnings):
    """The commands that begin so, each once, as arguments of a test."""
    found = {command.words: command for command in COMMANDS if command.words.startswith(beginnings)}
    return [pytest.param(words, id=words) for words in sorted(found)]


def own_words(words):
    """The words of one command of `bdia`: behind a pipe, without what goes into files."""
    return shlex.split(words.rpartition("| ")[2].partition(" < ")[0].partition(" > ")[0])


def is_bdia(words):
    """Whether a command, or what stands behind its pipe, is of `bdia` but not a training."""
    last = words.rpartition("| ")[2]
    return last.startswith("bdia ") and not last.startswith((*TRAINS, *OTHER))


VERBS = [pytest.param(c.words, id=c.words) for c in {c.words: c for c in COMMANDS if is_bdia(c.words)}.values()]


def test_there_are_commands_to_check():
    assert len(of(*TRAINS)) >= 12 and len(of("make ")) >= 8 and len(VERBS) >= 10
    assert {"README.md", "docs/start.md", "docs/experiments.md", "docs/text.md"} <= {c.page for c in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.words}")
def test_a_command_is_of_a_kind_that_is_checked(command):
    kinds = (*TRAINS, *OTHER, "make ", "python scripts/", ". .venv")
    assert command.words.startswith(kinds) or is_bdia(command.words), "no test knows this kind of command"
    if command.note.startswith("needs:"):
        assert {word.strip() for word in command.note.removeprefix("needs:").split(",")} <= NEEDS
    elif command.note not in ("text", "test: help"):
        pytest.fail("the block has no comment above it: `needs: ...`, or `test: help`")


@pytest.mark.parametrize("command", of(*TRAINS))
def test_a_training_composes(command):
    words = shlex.split(re.sub(r"^python -m bdia\.train|^bdia (train|sweep)", "", command))
    words = [word for word in words if not word.startswith(("--help", "-m", "hydra"))]
    firsts = []
    for override in OverridesParser.create().parse_overrides(words):
        value = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        firsts.append(f"{override.get_key_element()}={value}" if value else override.input_line)
    compose_config(*firsts)


@pytest.mark.parametrize("command", of("make "))
def test_a_make_target_is_documented_and_its_variables_are_read(command):
    words = command.split(" && ")[0].split()[1:]
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name.replace('*', '.*')}:.*## \S"
        assert re.search(pattern, MAKEFILE, re.MULTILINE), word


def keys_of_script(text):
    """The flags that a script's parser knows, and the fields of its `Arguments`."""
    classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "Arguments")
    fields = {line.target.id for node in classes for line in node.body if isinstance(line, ast.AnnAssign)}
    return fields | set(re.findall(r'add_argument\("(--[\w-]+)"', text))


def test_the_keys_of_a_script_are_those_it_reads_and_no_other_word():
    script = (ROOT / "scripts" / "memory_depth.py").read_text(encoding="utf-8")
    assert "depths" in keys_of_script(script) and "activations" not in keys_of_script(script)
    assert "--batch" in keys_of_script((ROOT / "scripts" / "allocator.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", of("python scripts/"))
def test_a_script_is_there_and_reads_the_keys_that_are_given(command):
    script, *words = shlex.split(command)[1:]
    known = keys_of_script((ROOT / script).read_text(encoding="utf-8"))
    for word in words:
        key, is_key, _ = word.partition("=")
        if is_key or word.startswith("--"):
            assert key in known, f"{script} does not read {key}"


@pytest.mark.parametrize("command", of("pip install"))
def test_an_extra_is_one_of_pyproject(command):
    for extras in re.findall(r"\[([\w,]+)\]", command):
        assert set(extras.split(",")) <= set(EXTRAS)


def test_every_extra_is_explained():
    (start,) = (path for path in pages() if path.name == "start.md")
    assert all(f"`{extra}`" in start.read_text(encoding="utf-8") for extra in EXTRAS)


@pytest.mark.parametrize("command", VERBS)
def test_a_verb_knows_the_keys_that_are_given(command):
    """A key is one of the verb's own, or a choice of configs/train.yaml where the verb takes these."""
    _, verb, *words = own_words(command)
    own, rest = own_arguments(verb), []
    for word in set(words) - {"--help"}:
        key, is_key, _ = word.partition("=")
        assert is_key, f"{word}: wanted key=value"
        if key not in own and word.endswith("=..."):  # any file of a group
            assert (CONFIGS / key).is_dir(), word
        elif key not in own:
            rest.append(word)
    if "model=hf" in words:  # the rest are keys of a configuration of transformers
        rest = [word for word in rest if word.startswith("optimizer")]
    if rest:
        assert verb in COMPOSING, f"bdia {verb} does not read {rest}"
        compose_config(*rest)
