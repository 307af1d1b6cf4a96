"""What names a run and ties it to its code: run id, config hash, git state."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bdia import InvalidValueError
from bdia.results.renamed import with_hashed_names


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the config as canonical JSON (sorted keys), so that key order does not matter.

    Classes count under the names that they had when the hash was introduced (`bdia.results.renamed`).

    Raises:
        ValueError: the config holds NaN or infinity, which JSON cannot write.
    """
    named = with_hashed_names(config)
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_id(started: datetime, sha: str, config_sha: str, seed: int) -> str:
    """Return `<utc with microseconds>_<sha7>_<config8>_s<seed>`; ids sort by start time.

    Raises:
        ValueError: `started` carries no time zone.
    """
    if started.tzinfo is None:
        raise InvalidValueError(f"started: saw {started!r} without a time zone, want datetime.now(UTC)")
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%S%fZ}_{sha[:7]}_{config_sha[:8]}_s{seed}"


def git_state(path: Path | str) -> dict[str, Any]:
    """Return {"sha", "dirty"} of the repository around `path`; sha "unknown" (and dirty) where there is none.

    Files under the repository's `results/` do not count as dirty: the runs of one sweep write there. For an installed
    package the commit is unknown: a repository around its folder is that of a project which uses it.
    """
    if {"site-packages", "dist-packages"} & set(Path(path).resolve().parts):
        return {"sha": "unknown", "dirty": True}
    sha = _git(path, "rev-parse", "--verify", "HEAD")
    changes = _git(path, "status", "--porcelain", "--", ":(top)", ":(top,exclude)results")
    if sha is None or changes is None:
        return {"sha": "unknown", "dirty": True}
    return {"sha": sha, "dirty": changes != ""}


def code_since(path: Path | str, sha: str) -> str:
    """Return in words whether what decides a run's numbers, `src` and `configs`, has changed since a commit."""
    changed = _git(path, "diff", "--name-only", sha, "--", ":(top)src", ":(top)configs")
    if changed is None:
        return "whether the code has changed since cannot be told"
    files = changed.splitlines()
    return f"{len(files)} files of src and configs have changed since" if files else "the code has not changed since"


def _git(path: Path | str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
