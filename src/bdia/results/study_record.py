"""Read the records of studies that train nothing, `results/<study>/<utc>_<sha7>.json`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bdia.results.record import RecordError

Record = Mapping[str, Any]


def read_newest(root: Path | str, study: str, check: Callable[[Record], object]) -> Record | None:
    """Return the newest record of a study under `root`; None where there is none.

    Args:
        check: raises ValueError, TypeError or KeyError for a row that is none of this study.
    Raises:
        RecordError: the file is no record of this study.
    """
    paths = sorted((Path(root) / study).glob("*.json"))
    if not paths:
        return None
    try:
        record: Record = json.loads(paths[-1].read_text(encoding="utf-8"))
        for row in record["rows"]:
            check(row)
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{paths[-1]}: no record of the study {study}: {error!r}") from error
    return record
