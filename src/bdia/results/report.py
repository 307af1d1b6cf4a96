"""Turn the run records into results/tables/*.md and one self-contained results/report.html.

Run: python -m bdia.results.report --results results
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from bdia import MissingFileError
from bdia.data.files import write_whole
from bdia.results.aggregate import Experiment, gather
from bdia.results.figures import figures
from bdia.results.layout import Table, markdown, markdown_text
from bdia.results.notes import notes, provenance
from bdia.results.paper import data_name
from bdia.results.record import RecordError, RunRecord
from bdia.results.store import read_records
from bdia.results.summary import summary_table
from bdia.results.tables import details_table, table_text
from bdia.results.verdict import verdicts


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
    def of(cls, experiment: Experiment) -> "Section":
        """Compute the section of one experiment."""
        names = sorted({data_name(record.config) for record in experiment.records})
        return cls(
            name=experiment.name,
            data=f"Data: {', '.join(names)}",
            summary=summary_table(experiment),
            details=details_table(experiment),
            verdicts=verdicts(experiment),
            notes=notes(experiment),
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
    """Write `out_dir`/tables/<experiment>.md and `out_dir`/report.html; the same records give the same bytes.

    Returns:
        the path of report.html.
    Raises:
        FileNotFoundError: no such folder, or no record in it.
        RecordError: a file that is no record.
    """
    records, out_dir = _select(records_root, None), Path(out_dir)
    sections = [Section.of(gathered) for gathered in gather(records)]
    for section in sections:
        write_whole(out_dir / "tables" / f"{section.name}.md", section.to_markdown())
    environment = Environment(
        loader=PackageLoader("bdia.results", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    page = out_dir / "report.html"
    write_whole(page, environment.get_template("report.html.jinja").render(sections=sections))
    return page


def _select(records_root: Path | str, experiment: str | None) -> list[RunRecord]:
    records = [record for record in read_records(records_root) if experiment in (None, record.experiment)]
    if not records:
        wanted = "<experiment>" if experiment is None else experiment
        raise MissingFileError(f"no records match {Path(records_root) / wanted}/*.json; train first, e.g. make demo")
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, write the report and print its path; 1 where the records cannot be read."""
    parser = argparse.ArgumentParser(description="Turn run records into tables and one HTML report.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with <experiment>/<run_id>.json")
    parser.add_argument("--out", type=Path, help="folder for tables/ and report.html (default: the results folder)")
    parser.add_argument("--experiment", help="print the table of this experiment alone")
    options = parser.parse_args(arguments)
    try:
        page = build_report(options.results, options.out or options.results)
        print(table_text(_select(options.results, options.experiment)))
    except (FileNotFoundError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nReport: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
