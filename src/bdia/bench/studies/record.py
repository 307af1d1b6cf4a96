"""The record of a study, `results/<study>/<utc>_<sha7>.json`: where it ran, its settings, one row per measurement."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bdia.build import CONFIGS
from bdia.data.files import write_whole
from bdia.profiling.device import describe_device
from bdia.results.identity import git_state

SCHEMA = 1


class StudyRecord:
    """Notes when a study began and on which code; writes its rows.

    Args:
        study: its name. settings: what was asked for. folder: of the record. device: "cpu" or "gpu".
    """

    def __init__(self, study: str, settings: Mapping[str, Any], folder: Path, device: str = "cpu") -> None:
        self.started, self.git = datetime.now(UTC), git_state(CONFIGS.parent)
        self.study, self.settings, self.folder, self.device = study, dict(settings), folder, device

    def write(self, rows: Sequence[Mapping[str, Any]], finished: bool = True) -> Path:
        """Write the record, a row a line, and return its path; a crash leaves none.

        Args:
            finished: else the file is `<record>.part`, which nothing reads; the finished record takes its place.
        """
        header = {
            "schema": SCHEMA, "study": self.study, "git": self.git, "device": describe_device(self.device),
            "settings": self.settings, "started_utc": self.started.isoformat(),
            "wall_s": round((datetime.now(UTC) - self.started).total_seconds(), 1),
        }  # fmt: skip
        lines = ",\n  ".join(map(json.dumps, rows))
        text = json.dumps(header, indent=1).removesuffix("\n}") + ',\n "rows": [\n  ' + lines + "\n ]\n}\n"
        path = self.folder / f"{self.started:%Y%m%dT%H%M%S%fZ}_{self.git['sha'][:7]}.json"
        part = path.with_name(f"{path.name}.part")
        write_whole(path if finished else part, text)
        if finished:
            part.unlink(missing_ok=True)
        return path if finished else part
