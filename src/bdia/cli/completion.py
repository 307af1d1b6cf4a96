"""Print the completion of this command for a shell: verbs, keys, and the files of configs/.

Usage: bdia completion [shell=bash]

  shell=bash       or zsh, fish

Examples:
  eval "$(bdia completion)"                              in ~/.bashrc
  eval "$(bdia completion shell=zsh)"                    in ~/.zshrc, after compinit
  bdia completion shell=fish > ~/.config/fish/completions/bdia.fish
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
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
COMPOSING = ("train", "sweep", "config", "plan")  # verbs that choose from configs/


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
    """Return the keys that the help of a verb lists, and the groups of configs/."""
    spec = find_spec(f"bdia.cli.{verb.replace('-', '_')}")
    text = Path(spec.origin).read_text(encoding="utf-8").split('"""')[1] if spec else ""
    own = re.findall(r"^  ([a-z_.]+)(?==|  )", text, re.MULTILINE)
    groups = [path.name for path in _configs().iterdir() if path.is_dir()] if verb in COMPOSING else []
    return sorted({*own, *groups} - {"hydra"})


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
