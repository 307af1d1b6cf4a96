"""Turn the run records into results/tables/*.md, one self-contained results/report.html and a text for the terminal.

Run: bdia report
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bdia import MissingFileError
from bdia.data.files import write_whole
from bdia.results import inference, reconstruction
from bdia.results.checksums import data_notes
from bdia.results.claims_table import ClaimRow, claims_markdown, claims_table
from bdia.results.figures import figures
from bdia.results.published import CURVES_ONLY, data_name, paper_row, setting_differences
from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, gather
from bdia.results.store import read_all, read_records, read_remarks
from bdia.results.tables import Table, details_table, markdown, markdown_text, plain, summary_table
from bdia.results.variants import task_class
from bdia.results.verdicts import RULE, verdict_lines, verdicts


@dataclass(frozen=True)
class Section:
    """All that one experiment shows, in the page and in its Markdown file."""

    name: str
    data: str
    summary: Table
    details: Table
    verdicts: list[str]
    notes: list[str]
    figures: dict[str, str]
    provenance: list[str]
    runs: list[RunRecord]

    @classmethod
    def of(cls, experiment: Experiment, remarks: Sequence[str] = ()) -> "Section":
        """Compute the section of one experiment; `remarks` are what its README.md says."""
        names = sorted({data_name(record.config) for record in experiment.records})
        return cls(
            name=experiment.name,
            data=f"Data: {', '.join(names)}",
            summary=summary_table(experiment),
            details=details_table(experiment),
            verdicts=verdict_lines(experiment),
            notes=[*remarks, *notes(experiment)],
            figures=figures(experiment),
            provenance=provenance(experiment),
            runs=experiment.records,
        )

    def to_markdown(self) -> str:
        """Return the section without its figures."""
        bullets = "\n".join(f"- {markdown_text(text)}" for text in [*self.verdicts, *self.notes, *self.provenance])
        opening = (
            f"# {markdown_text(self.name)}\n\n{markdown_text(self.data)}. Generated from the run records: do not edit."
        )
        return "\n\n".join([opening, markdown(self.summary), bullets, markdown(self.details)]) + "\n"


def build_report(records_root: Path | str, out_dir: Path | str) -> Path:
    """Write `out_dir`/tables/*.md and `out_dir`/report.html; the same records give the same bytes.

    Returns:
        the path of report.html.
    Raises:
        FileNotFoundError: no such folder, or no record in it.
    """
    records, out_dir, unread = selected(records_root), Path(out_dir), read_all(records_root)[1]
    remarks, experiments = read_remarks(records_root), gather(records)
    claims = claim_rows(experiments, reconstruction.read_newest(records_root))
    sections = [Section.of(gathered, remarks.get(gathered.name, ())) for gathered in experiments]
    write_whole(out_dir / "tables" / "claims.md", claims_markdown(claims))
    for section in sections:
        write_whole(out_dir / "tables" / f"{section.name}.md", section.to_markdown())
    environment = Environment(
        loader=PackageLoader("bdia.results", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    page = out_dir / "report.html"
    template = environment.get_template("report.html.jinja")
    studies = [*filter(None, [Study.of(reconstruction.read_newest(records_root))])]
    studies += Study.of_inference(inference.read_newest(records_root))
    shown = {"sections": sections, "studies": studies, "table_of_claims": claims_table(claims), "claims": claims}
    shown["unread"] = unread
    write_whole(page, template.render(**shown, rule=RULE))
    return page


def claim_rows(experiments: Sequence[Experiment], rebuilt: Mapping[str, Any] | None) -> list[ClaimRow]:
    """Return every claim in the paper's order: tables, then figures.

    Args:
        rebuilt: the record of the study of Fig. 2.
    """
    judged = verdicts(experiments)
    first = next(place for place, verdict in enumerate(judged) if verdict.claim.place == "Fig. 3")
    rows = [ClaimRow.of(verdict) for verdict in judged]
    return [*rows[:first], reconstruction.claim(rebuilt), *rows[first:]]


@dataclass(frozen=True)
class Study:
    """A study without training runs, in the page."""

    title: str
    table: Table
    figure: str
    provenance: list[str]

    @classmethod
    def of_inference(cls, record: Mapping[str, Any] | None) -> "list[Study]":
        """Return the parts of a record of the study of inference; the first has the figure."""
        if record is None:
            return []
        shown = inference.tables(record).items()
        return [
            cls(
                inference.TITLES[part],
                table,
                inference.figure(record) if part == "gamma" else "",
                inference.provenance(record),
            )
            for part, table in shown
        ]

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> "Study | None":
        """Return what a record of the study of Fig. 2 shows; None for no record."""
        if record is None:
            return None
        told = reconstruction.provenance(record)
        return cls(reconstruction.TITLE, reconstruction.table(record), reconstruction.figure(record), told)


def table_text(records: Sequence[RunRecord], remarks: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the tables, verdicts and notes of all experiments in the records, aligned for a terminal.

    Args:
        remarks: of `read_remarks`.
    """
    parts = []
    for experiment in gather(records):
        lines = [experiment.name, "", plain(summary_table(experiment)), ""]
        lines += [*verdict_lines(experiment), *(remarks or {}).get(experiment.name, ())]
        parts.append("\n".join([*lines, *notes(experiment), *provenance(experiment)]))
    return "\n\n\n".join(parts)


def selected(records_root: Path | str, experiment: str = "") -> list[RunRecord]:
    """Return the records of one experiment, or of all.

    Raises:
        MissingFileError: there is none.
    """
    records = [record for record in read_records(records_root) if experiment in ("", record.experiment)]
    if not records:
        place = Path(records_root) / (experiment or "<experiment>")
        raise MissingFileError(f"no record is in {place}/*.json: train first, for example `bdia train experiment=demo`")
    return records


# --- notes under a table ---


def notes(experiment: Experiment) -> list[str]:
    """Return the notes under the table: the setting, older runs left out, runs that broke."""
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
    return [*lines, *data_notes(experiment.records)]


def failure_reason(error: str | None) -> str:
    """Return the line of a run's error that says why it broke.

    Hydra's errors have three parts: the target, the cause, then "full_key: ...".
    """
    lines = [line.strip() for line in (error or "no reason recorded").splitlines() if line.strip()]
    keys = [line for line in lines if line.startswith("full_key:")]
    told = [line for line in lines if line not in keys] or ["no reason recorded"]
    if told[0].startswith("Traceback"):
        told = told[-1:]
    reason = " ".join(told[:2]) if told[0].endswith(":") else told[0]
    return f"{reason} (config: {keys[-1].removeprefix('full_key:').strip()})" if keys else reason


def provenance(experiment: Experiment) -> list[str]:
    """Return devices, commits, data and the metrics' signatures behind the records, each with its number of runs."""
    devices = Counter(_device(record) for record in experiment.records)
    commits = Counter(
        f"commit {record.git['sha'][:12]} ({'dirty' if record.git['dirty'] else 'clean'})"
        for record in experiment.records
    )
    signatures = Counter(
        f"{name} signature {text}" for record in experiment.records for name, text in record.signatures.items()
    )
    data = Counter(
        f"{split} data, SHA-256 {sha[:12]}"
        for record in experiment.records
        for split, sha in record.data_sha256.items()
    )
    counted = (devices, commits, data, signatures)
    return [f"{text}: {count} run(s)" for counts in counted for text, count in sorted(counts.items())]


def _device(record: RunRecord) -> str:
    device = dict(record.device)
    name, count = device.pop("name"), device.pop("count", 1)
    versions = ", ".join(f"{key} {value}" for key, value in device.items() if value is not None)
    return ", ".join(part for part in (f"{count} x {name}", versions, record.precision) if part)
