"""What a reader must know beside a table: the setting, runs left out or broken, devices, commits, signatures."""

from collections import Counter

from bdia.results.aggregate import Experiment
from bdia.results.paper import CURVES_ONLY, paper_row, setting_differences
from bdia.results.record import RunRecord
from bdia.results.variants import task_class


def notes(experiment: Experiment) -> list[str]:
    """Return what a reader must know beside the table: the setting, older runs left out, runs that broke."""
    configs = [variant.example.config for variant in experiment.variants]
    lines = list(dict.fromkeys(CURVES_ONLY[task] for task in map(task_class, configs) if task in CURVES_ONLY))
    compared = [config for config in configs if paper_row(config) or task_class(config) in CURVES_ONLY]
    for text in dict.fromkeys("; ".join(setting_differences(config)) for config in compared):
        if text:
            lines.append(f"Not the paper's setting: {text}.")
    for variant in experiment.variants:
        if variant.older:
            lines.append(f"{variant.label}: {len(variant.older)} older ok run(s) of the same seed left out.")
        for record in variant.broken:
            lines.append(f"{variant.label}, seed {record.seed}: {record.status}: {failure_reason(record.error)}")
    return lines


def failure_reason(error: str | None) -> str:
    """Return the telling line of a run's error; Hydra writes the target, then the cause, then "full_key: ..."."""
    lines = [line.strip() for line in (error or "no reason recorded").splitlines() if line.strip()]
    keys = [line for line in lines if line.startswith("full_key:")]
    told = [line for line in lines if line not in keys] or ["no reason recorded"]
    if told[0].startswith("Traceback"):
        told = told[-1:]
    reason = " ".join(told[:2]) if told[0].endswith(":") else told[0]
    return f"{reason} (config: {keys[-1].removeprefix('full_key:').strip()})" if keys else reason


def provenance(experiment: Experiment) -> list[str]:
    """Return the devices, the commits and the metrics' signatures behind the records, each with its number of runs."""
    devices = Counter(_device(record) for record in experiment.records)
    commits = Counter(
        f"commit {record.git['sha'][:12]} ({'dirty' if record.git['dirty'] else 'clean'})"
        for record in experiment.records
    )
    signatures = Counter(
        f"{name} signature {text}" for record in experiment.records for name, text in record.signatures.items()
    )
    counted = (devices, commits, signatures)
    return [f"{text}: {count} run(s)" for counts in counted for text, count in sorted(counts.items())]


def _device(record: RunRecord) -> str:
    device = dict(record.device)
    name, count = device.pop("name"), device.pop("count", 1)
    versions = ", ".join(f"{key} {value}" for key, value in device.items() if value is not None)
    return ", ".join(part for part in (f"{count} x {name}", versions, record.precision) if part)
