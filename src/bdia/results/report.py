"""Turn the run records into results/tables/*.md, one self-contained results/report.html and a text for the terminal.

Run: bdia report
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from bdia import MissingFileError
from bdia.data.files import write_whole
from bdia.results import chosen, inference, overtaking, reconstruction
from bdia.results.checksums import data_notes
from bdia.results.claims_table import ClaimRow, claims_markdown, claims_table
from bdia.results.figures import figure_of
from bdia.results.page import order
from bdia.results.page.benchmarks import benchmarks
from bdia.results.page.opening import ShortClaim, cost_of_a_step, counted, first_figure, in_a_sentence
from bdia.results.page.part import Part
from bdia.results.published import CURVES_ONLY, data_name, paper_row, setting_differences
from bdia.results.record import RunRecord
from bdia.results.statistics import Experiment, gather
from bdia.results.store import read_all, read_records, read_remarks
from bdia.results.stored import stored_notes
from bdia.results.tables import Table, details_table, markdown, markdown_text, plain, summary_table, without_empty
from bdia.results.variants import task_class
from bdia.results.verdicts import RULE, verdict_lines, verdicts

MOST_ROWS, MOST_LINES = 12, 4  # of a table and of what is found that the page shows unfolded


@dataclass(frozen=True)
class Section:
    """All that one experiment shows, in the page and in its Markdown file."""

    experiment: Experiment
    data: str
    summary: Table
    details: Table
    verdicts: list[str]
    notes: list[str]
    provenance: list[str]

    @classmethod
    def of(cls, experiment: Experiment, remarks: Sequence[str] = (), runs: Sequence[RunRecord] = ()) -> "Section":
        """Compute the section of one experiment; `remarks` are what its README.md says, `runs` all records."""
        names = sorted({data_name(record.config) for record in experiment.records})
        return cls(
            experiment=experiment,
            data=f"Data: {', '.join(names)}",
            summary=summary_table(experiment),
            details=details_table(experiment),
            verdicts=verdict_lines(experiment),
            notes=[*remarks, *notes(experiment, runs)],
            provenance=provenance(experiment),
        )

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.name

    def part(self, number: int) -> Part:
        """Return the section as the page shows it; `number` tells it from the others."""
        told, records = order.header(self.name), self.experiment.records
        shas = ", ".join(dict.fromkeys(record.git["sha"][:12] for record in records))
        return Part(
            f"experiment-{number}", self.name, told.title, told.text,
            without_empty(self.summary), figure_of(self.experiment), tuple(filter(None, (told.limits, *self.verdicts))),
            told.command, f"{len(records)} record(s), commit {shas}. {self.data}.", (*self.notes, *self.provenance),
            tuple(f"{one.run_id} {one.status}" for one in records), order.place(self.name),
        )  # fmt: skip

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
    sections = [Section.of(gathered, remarks.get(gathered.name, ()), records) for gathered in experiments]
    write_whole(out_dir / "tables" / "claims.md", claims_markdown(claims))
    for section in sections:
        write_whole(out_dir / "tables" / f"{section.name}.md", section.to_markdown())
    page, measured = out_dir / "report.html", benchmarks(records_root)
    parts = [section.part(number) for number, section in enumerate(sections, 1)]
    parts += filter(None, [reconstruction.part(reconstruction.read_newest(records_root))])
    parts += inference.parts(inference.read_newest(records_root))
    parts += chosen.parts(experiments)
    parts += overtaking.parts(experiments)
    shown = {
        "sentences": in_a_sentence(experiments, measured),
        "short": [ShortClaim.of(row) for row in claims],
        "counted": counted(claims),
        "first": first_figure(experiments),
        "claims": claims,
        "table_of_claims": claims_table(claims),
        "rule": RULE,
        "parts": sorted(parts, key=lambda part: part.place),
        "benchmarks": [benchmark.part() for benchmark in measured],
        "devices": devices(records),
        "unread": unread,
        "plotly": get_plotlyjs(),
        "most_rows": MOST_ROWS,
        "most_lines": MOST_LINES,
    }
    environment = Environment(
        loader=PackageLoader("bdia.results", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    write_whole(page, environment.get_template("report.html.jinja").render(**shown))
    return page


def devices(records: Sequence[RunRecord]) -> list[str]:
    """Return every device with its versions and number of runs."""
    return [f"{text}: {count} run(s)" for text, count in sorted(Counter(map(_device, records)).items())]


def claim_rows(experiments: Sequence[Experiment], rebuilt: Mapping[str, Any] | None) -> list[ClaimRow]:
    """Return every claim in the paper's order: tables, then figures.

    Args:
        rebuilt: the record of the study of Fig. 2.
    """
    judged = verdicts(experiments)
    first = next(place for place, verdict in enumerate(judged) if verdict.claim.place == "Fig. 3")
    rows = [ClaimRow.of(verdict) for verdict in judged]
    return [*rows[:first], reconstruction.claim(rebuilt), *rows[first:]]


def table_text(records: Sequence[RunRecord], remarks: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the tables, verdicts and notes of all experiments in the records, aligned for a terminal.

    Args:
        remarks: of `read_remarks`.
    """
    parts = []
    for experiment in gather(records):
        limits = order.header(experiment.name).limits
        lines = [experiment.name, "", plain(without_empty(summary_table(experiment))), ""]
        lines += filter(None, [cost_of_a_step(experiment), limits])
        lines += [*verdict_lines(experiment), *(remarks or {}).get(experiment.name, ())]
        parts.append("\n".join([*lines, *notes(experiment, records), *provenance(experiment)]))
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


def notes(experiment: Experiment, runs: Sequence[RunRecord] = ()) -> list[str]:
    """Return the notes under the table: the setting, older runs left out, runs that broke, runs that were stored.

    Args:
        runs: of all experiments, among which the reversible run of a stored one is sought.
    """
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
    return [*lines, *stored_notes(experiment, runs), *data_notes(experiment.records)]


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
    counted = (commits, data, signatures)
    lines = [f"{text}: {count} run(s)" for counts in counted for text, count in sorted(counts.items())]
    return [*devices(experiment.records), *lines]


def _device(record: RunRecord) -> str:
    device = dict(record.device)
    name, count = device.pop("name"), device.pop("count", 1)
    versions = ", ".join(f"{key} {value}" for key, value in device.items() if value is not None)
    return ", ".join(part for part in (f"{count} x {name}", versions, record.precision) if part)
