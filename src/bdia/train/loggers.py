"""Loggers, called alike by `build_loggers`: (save_dir, name, group, config)."""

import contextlib
import csv
import io
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from bdia.data.files import write_whole
from bdia.results.record import Metric
from bdia.results.variants import stack_name, task_class
from bdia.train.wandb_mode import choose_mode

log = logging.getLogger("bdia")

SECONDS_OF_START, SECONDS_OF_END = 15, 60  # the longest that W&B may hold a run up


class WholeCsv(ExperimentWriter):
    """metrics.csv, written anew at every save: a kill or a full disk leaves the one before, not half a line."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows: list[dict[str, float]] = []
        self.metrics: list[dict[str, float]] = []

    def save(self) -> None:
        """Write all rows; a row has no value where it measured nothing."""
        self.rows += self.metrics
        self.metrics = []
        if not self.rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted(set().union(*self.rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(Path(self.metrics_file_path), text.getvalue())


class WholeCsvLogger(CSVLogger):
    """Lightning's logger with `WholeCsv` as its writer."""

    @property
    @rank_zero_experiment
    def experiment(self) -> WholeCsv:
        """The writer of this run's file."""
        writer: WholeCsv | None = self.__dict__.get("_experiment")
        if writer is None:
            writer = self._experiment = WholeCsv(self.log_dir)
        return writer

    def summarise(self, values: Mapping[str, float], units: Mapping[str, str]) -> None:
        """Write summary.csv beside metrics.csv: name, value, unit."""
        text = io.StringIO()
        csv.writer(text).writerows([("name", "value", "unit"), *((name, values[name], units[name]) for name in values)])
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        write_whole(Path(self.log_dir) / "summary.csv", text.getvalue())


class SummaryWandbLogger(WandbLogger):
    """W&B's logger of Lightning, with what the run came to in the run's summary: dashboards read that."""

    def summarise(self, values: Mapping[str, float], units: Mapping[str, str]) -> None:
        """Put the record's last values into the summary, and what they are measured in under "units"."""
        self.experiment.summary.update({**values, "units": dict(units)})


def summarise(loggers: Iterable[Logger], rows: Iterable[Metric]) -> None:
    """Hand the last value of every measurement of a record to the loggers that keep a summary.

    A name is the record's, after its split where it has one: "test/accuracy", "peak_allocated".
    """
    last = {f"{row.split}/{row.name}" if row.split else row.name: row for row in rows}
    values, units = ({name: getattr(row, part) for name, row in last.items()} for part in ("value", "unit"))
    for logger in loggers:
        if hasattr(logger, "summarise"):
            logger.summarise(values, units)


def run_name(config: Mapping[str, Any]) -> str:
    """Return a name that a person reads: stack, gamma g, bits l and seed s, such as "BDIA g=1/2 l=9 s0"."""
    stack = config["stack"]
    law, bits = stack.get("gamma"), stack.get("bits") or stack.get("grid_bits")
    gamma = None if law is None else law.get("value") or str(law["_target_"]).rpartition(".")[2]
    parts = [stack_name(config), f"g={gamma}" if gamma else "", f"l={bits}" if bits else "", f"s{config['seed']}"]
    return " ".join(filter(None, parts))


def numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a plot over settings needs as numbers: "gamma" (of +1/2 or -1/2: 0.5) and "bits", where there are."""
    stack = config.get("stack", {})
    gamma, bits = (stack.get("gamma") or {}).get("value"), stack.get("bits") or stack.get("grid_bits")
    found = {"gamma": None if gamma is None else float(Fraction(str(gamma))), "bits": bits}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def csv_logger(save_dir: Path, name: str, group: str, config: dict[str, Any]) -> CSVLogger:
    """Write csv/version_<n>/metrics.csv into the run's folder; a resumed run opens the next version."""
    return WholeCsvLogger(save_dir, name="csv")


def wandb_logger(save_dir: Path, name: str, group: str, config: dict[str, Any], project: str = "bdia") -> WandbLogger:
    """Log to Weights & Biases: one run per job however often it is interrupted, grouped by experiment.

    Online where a key is there and the server takes it; else offline, with a warning where online was asked for. An
    offline run lies in <save_dir>/wandb and is sent later with `wandb sync`. Training never waits long for W&B.
    """
    import wandb as client

    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(variable, str(save_dir / "wandb"))
    mode, reason = choose_mode()
    arguments = {"dir": save_dir, "name": name, "group": group, "project": project}
    arguments |= {
        "config": {**config, **numbers(config)},
        "id": wandb_id(save_dir),
        "job_type": stack_name(config),
        "tags": [*filter(None, [task_class(config)])],
    }
    for tried in dict.fromkeys([mode, "offline"]):
        try:
            run = _started(client, tried, arguments)
            break
        except (client.Error, OSError, ValueError) as error:  # ValueError: a variable WANDB_... that it does not take
            reason = f"W&B can't start ({' '.join(str(error).split())[:200]})"
            client.teardown()
    else:
        run = _started(client, "disabled", arguments)
    if reason:
        log.warning("%s: this run is logged offline; send it later with `wandb sync %s`", reason, save_dir / "wandb")
    return SummaryWandbLogger(experiment=run)


def _started(client: Any, mode: str, arguments: dict[str, Any]) -> Any:
    resume = {"resume": "allow"} if mode in ("online", "shared") else {}
    with _only_understood():
        settings = client.Settings(
            silent=True, console="off", mode=mode, init_timeout=SECONDS_OF_START, finish_timeout=SECONDS_OF_END,
            finish_timeout_raises=False,
        )  # fmt: skip
        client.setup(settings)
        return client.init(**arguments, **resume, settings=settings)


@contextlib.contextmanager
def _only_understood() -> Iterator[None]:
    """Inside, the environment has no variable of W&B's with a value that it refuses: it would end the run.

    Its mode is chosen here (`choose_mode`), the others are named in a warning.
    """
    refused = {"WANDB_MODE", *_refused()} & os.environ.keys()
    kept = {name: os.environ.pop(name) for name in refused}
    for name in sorted(refused - {"WANDB_MODE"}):
        log.warning("%s=%s: W&B does not take it; it counts as not set", name, kept[name])
    try:
        yield
    finally:
        os.environ |= kept


def _refused() -> list[str]:
    """Return the variables of W&B's whose value its settings refuse."""
    from wandb import Error
    from wandb.sdk.wandb_settings import Settings

    found = []
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_MODE"]:
        try:
            Settings().update_from_env_vars({name: os.environ[name]})
        except (Error, ValueError):
            found.append(name)
    return found


def wandb_id(save_dir: Path) -> str:
    """Return the id of a run's W&B run: noted in its folder, so that a resumed run is the same; new after its end."""
    note = save_dir / "wandb_id"
    if note.is_file() and not (save_dir / "record.json").exists():
        return note.read_text(encoding="utf-8").strip()
    found = f"{re.sub('[^A-Za-z0-9_-]', '-', save_dir.name)[:40]}-{secrets.token_hex(4)}"
    write_whole(note, found)
    return found
