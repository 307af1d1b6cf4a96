"""Print the completion of this command for a shell: verbs, keys, and the files of configs/.

Usage: bdia completion [shell=bash]

  shell=bash       or zsh, fish

Examples:
  eval "$(bdia completion)"                              in ~/.bashrc
  eval "$(bdia completion shell=zsh)"                    in ~/.zshrc, after compinit
  bdia completion shell=fish > ~/.config/fish/completions/bdia.fish
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bdia import InvalidValueError
from bdia.cli.arguments import read_arguments

BASH = """_bdia() {
    local words line=${COMP_LINE:0:COMP_POINT}
    mapfile -t COMPREPLY < <(bdia completion words="${line#* }" 2>/dev/null)
    [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
    local last=${line##* }
    [[ $last == *=* ]] && COMPREPLY=("${COMPREPLY[@]#*=}")
}
complete -F _bdia bdia"""
ZSH = """_bdia() {
    local -a found
    found=("${(@f)$(bdia completion words="${${BUFFER:0:$CURSOR}#* }" 2>/dev/null)}")
    compadd -S '' -- $found
}
compdef _bdia bdia"""
FISH = """complete -c bdia -f -a '(bdia completion words=(string replace -r "^\\S+ " "" -- (commandline -cp)))'"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
COMPOSING = ("train", "sweep", "config", "plan", "profile")  # verbs that choose from configs/


@dataclass
class Arguments:
    """The command line; `words` is what the shells' functions hand over: the line up to the cursor."""

    shell: str = "bash"
    words: str | None = None


def candidates(line: str) -> list[str]:
    """Return what the last word of a line, given without the command's name, may become."""
    from bdia.cli.main import VERBS

    *before, last = line.split(" ")
    if not before:
        return [verb for verb in VERBS if verb.startswith(last)]
    key, equals, value = last.partition("=")
    if not equals:
        return [f"{key}=" for key in _keys(before[0]) if key.startswith(last)]
    if before[0] not in COMPOSING:
        return []
    folder = _configs() / key.partition("@")[0]
    return sorted(f"{key}={path.stem}" for path in folder.glob("*.yaml") if path.stem.startswith(value))


def _keys(verb: str) -> list[str]:
    """Return a verb's own keys; where it chooses from configs/, the groups and what the help of `train` names too."""
    own = set(_arguments(f"bdia.cli.{verb.replace('-', '_')}"))
    if verb == "study":  # the keys of every study
        own |= {"name", "out"}
        for path in (Path(__file__).parents[1] / "bench" / "studies").glob("*.py"):
            own |= set(_arguments(f"bdia.bench.studies.{path.stem}"))
    if verb in COMPOSING:
        own |= {path.name for path in _configs().iterdir() if path.is_dir()} - {"hydra"}
        help_text = _tree("bdia.cli.train").body[0].value.value.partition("Examples:")[0]
        for line in re.findall(r"^  (?=[a-z]).*", help_text, re.MULTILINE):
            own |= set(re.findall(r"(?<= )([a-z][\w./@]*)=", line))
    return sorted(own)


def _arguments(module: str) -> Iterator[str]:
    """Yield the fields of a module's `Arguments` and `Choice`, read from the source: an import may take seconds."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ClassDef) and node.name in ("Arguments", "Choice"):
            yield from (line.target.id for line in node.body if isinstance(line, ast.AnnAssign))
        elif isinstance(node, ast.ImportFrom) and "Arguments" in (alias.name for alias in node.names):
            yield from _arguments(node.module)


def _tree(module: str) -> ast.Module:
    path = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")


def _configs() -> Path:
    """Return the folder that `bdia.build.CONFIGS` names; importing that would take longer than a key press may."""
    package = Path(__file__).parents[1]
    return next(path for path in (package / "configs", package.parents[1] / "configs") if path.is_dir())


def run(argv: Sequence[str]) -> None:
    """Print the shell's function, or the candidates that it asks for."""
    words = next((word.removeprefix("words=") for word in argv if word.startswith("words=")), None)
    if words is not None:
        print("\n".join(candidates(words)))
        return
    arguments = read_arguments(Arguments(), argv)
    if arguments.shell not in SHELLS:
        raise InvalidValueError(f"shell={arguments.shell}: wanted one of {', '.join(SHELLS)}; set shell")
    print(SHELLS[arguments.shell])
