"""Turn the records into tables, results/tables/*.md, and one page, results/report.html; print the tables.

Usage: bdia report [key=value ...]

  experiment=        print the table of this experiment alone; the files are of all
  results=results    folder of the records, <experiment>/<run_id>.json
  out=               folder of tables/ and report.html; empty: that of the records

Examples:
  bdia report
  bdia report experiment=demo
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bdia.cli.arguments import read_arguments


@dataclass
class Arguments:
    """The command line; the module's text says what each means."""

    experiment: str = ""
    results: str = "results"
    out: str = ""


def run(argv: Sequence[str]) -> None:
    """Write the report, print tables and the page's path."""
    arguments = read_arguments(Arguments(), argv)
    from bdia.results.output import printable
    from bdia.results.report import build_report, selected, table_text
    from bdia.results.store import read_remarks

    records = selected(arguments.results, arguments.experiment)
    page = build_report(arguments.results, arguments.out or arguments.results)
    print(printable(table_text(records, read_remarks(arguments.results))))
    print(f"\nReport: {page}")
