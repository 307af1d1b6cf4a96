"""Write and read the records `results/<experiment>/<run_id>.json`. A record is never overwritten."""

import contextlib
import logging
from pathlib import Path

from bdia import ExistingFileError, MissingFileError
from bdia.data.files import write_whole
from bdia.results.record import RecordError, RunRecord, without_folders

log = logging.getLogger("bdia")

# Folders beside the experiments that hold other things.
NOT_EXPERIMENTS = (
    "tables",
    "claims",
    "bench",
    "finetune_gamma",
    "gpu",
    "depth",
    "plans",
    "reconstruction",
    "inference",
    "whole_step",
    "equal_memory",
    "length",
    "compiled",
    "transformers",
    "limits",
    "stream",
    "loss_head",
    "kills",
    "settings",
    "soak",
)


def record_path(record: RunRecord, root: Path | str) -> Path:
    """Return where the record belongs under `root`.

    Raises:
        RecordError: the experiment's name or the run id cannot name a file, or is one of `NOT_EXPERIMENTS`.
    """
    for key, name in (("experiment", record.experiment), ("run_id", record.run_id)):
        if not name or name.startswith(".") or Path(name).name != name or name in NOT_EXPERIMENTS:
            raise RecordError(f"{key}: saw {name!r}, want a plain file name other than {', '.join(NOT_EXPERIMENTS)}")
    return Path(root) / record.experiment / f"{record.run_id}.json"


def write_record(record: RunRecord, root: Path | str) -> Path:
    """Write the record under `root` and return its path; a crash leaves no partial record.

    Raises:
        FileExistsError: a record of this run id is already there; records are never overwritten.
    """
    path = record_path(record, root)
    if path.exists():
        raise ExistingFileError(f"{path} exists and a record is never overwritten; give the run its own run_id")
    write_whole(path, record.to_json())
    return path


def read_records(root: Path | str) -> list[RunRecord]:
    """Return every record under `root` that can be read, ordered by experiment, then run id (start time).

    The others are named in a warning each; `read_all` returns them.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    records, unread = read_all(root)
    for line in unread:
        log.warning("not read: %s", line)
    return records


def read_all(root: Path | str) -> tuple[list[RunRecord], list[str]]:
    """Return the records, and one line on each file among them that is none, or lies where it does not belong.

    Raises:
        FileNotFoundError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise MissingFileError(f"results folder {root} does not exist; pass the folder that holds <experiment>/*.json")
    records, unread = [], []
    for path in sorted(path for path in root.glob("*/*.json") if path.parent.name not in NOT_EXPERIMENTS):
        try:
            records.append(_read(path))
        except RecordError as error:
            unread.append(without_folders(" ".join(str(error).split())))
    return records, unread


def finished_records(root: Path | str, experiment: str = "*") -> dict[str, RunRecord]:
    """Return the records that ended well by the SHA-256 of their configs; of equal ones the earliest.

    Args:
        experiment: name of the folder; without it all.
    """
    found: dict[str, RunRecord] = {}
    for path in sorted(Path(root).glob(f"{experiment}/*.json")):
        if path.parent.name not in NOT_EXPERIMENTS:
            with contextlib.suppress(RecordError):  # `read_all` names it
                record = _read(path)
                if record.status == "ok":
                    found.setdefault(record.config_sha256, record)
    return found


def read_remarks(root: Path | str) -> dict[str, list[str]]:
    """Return what is said of an experiment's records in `<experiment>/README.md`, beside them.

    Returns:
        experiment -> its paragraphs, without headings. Experiments without the file are left out.
    """
    remarks = {}
    for path in sorted(Path(root).glob("*/README.md")):
        if path.parent.name not in NOT_EXPERIMENTS:
            paragraphs = (" ".join(part.split()) for part in path.read_text(encoding="utf-8").split("\n\n"))
            remarks[path.parent.name] = [text for text in paragraphs if text and not text.startswith("#")]
    return remarks


def _read(path: Path) -> RunRecord:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from error
    record = RunRecord.from_json(text, source=str(path))
    if (record.experiment, record.run_id) != (path.parent.name, path.stem):
        raise RecordError(f"{path}: run_id: holds {record.experiment}/{record.run_id}, want the file's own name")
    return record
