"""The wheels that a bare machine with torch lacks: say which on that machine, fetch them on one with a network.

    python scripts/gpu_kit/wheels.py missing                                      # there: names, one a line
    python scripts/gpu_kit/wheels.py fetch NAME ... [--python 3.12] [--to .whl]   # here

The versions are those of constraints.txt. `start.sh` installs what lies in `.whl` without a network. A package with no
wheel on the index is built here by pip.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WANTED = ("train", "report", "hf")  # extras that a run and the gpu tests need
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def wanted(root: Path = ROOT) -> list[str]:
    """Return the names of the packages of `WANTED` extras, and pytest."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for extra in WANTED for line in project["optional-dependencies"][extra]]
    names = [re.split(r"[<>=\[ ;]", line)[0] for line in (*lines, "pytest")]
    return [name for name in dict.fromkeys(names) if name != project["name"]]


def missing(names: list[str]) -> list[str]:
    """Return those of the packages, and of what they need, that are not installed here."""
    from importlib.metadata import requires

    found, todo, seen = [], list(names), set()
    while todo:
        name = todo.pop(0)
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            version(name)
        except PackageNotFoundError:
            found.append(name)
            continue
        needs = [line for line in requires(name) or [] if ";" not in line]
        todo += [re.split(r"[<>=!~\[( ;]", line)[0] for line in needs]
    return found


def pinned(names: list[str], constraints: str) -> list[str]:
    """Return "name==version" of each.

    Raises:
        SystemExit: a name that constraints.txt has not.
    """
    versions = dict(line.split("==") for line in constraints.splitlines() if "==" in line and line[0] != "#")
    known = {re.sub(r"[-_.]+", "-", name).lower(): number.split()[0] for name, number in versions.items()}
    keys = {name: re.sub(r"[-_.]+", "-", name).lower() for name in names}
    unknown = [name for name, key in keys.items() if key not in known]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not in constraints.txt, so no version is known to work")
    return [f"{key}=={known[key]}" for key in keys.values()]


def commands(packages: list[str], python: str, to: Path) -> list[list[str]]:
    """Return per package what fetches its wheel for that Python, or builds it where there is none."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", "--abi=none"]
    target += [f"--abi=cp{python.replace('.', '')}", "--abi=abi3", *(f"--platform={name}" for name in PLATFORMS)]
    return [[*pip, "download", "-q", "--no-deps", *target, "--platform=any", "-d", str(to), name] for name in packages]


def fetch(packages: list[str], python: str, to: Path) -> None:
    """Download each wheel; build one where there is none, which is right for pure Python only.

    Raises:
        CalledProcessError: neither works.
    """
    to.mkdir(parents=True, exist_ok=True)
    for name, command in zip(packages, commands(packages, python, to), strict=True):
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
            build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(to), name]
            subprocess.run(build, check=True)
        print(name, flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("missing", "fetch"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--python", default="3.12", help="version on the bare machine")
    parser.add_argument("--to", type=Path, default=Path(".whl"))
    given = parser.parse_args()
    if given.verb == "missing":
        print("\n".join(missing(given.names or wanted())))
    else:
        constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        fetch(pinned(given.names, constraints), given.python, given.to)


if __name__ == "__main__":
    main()
