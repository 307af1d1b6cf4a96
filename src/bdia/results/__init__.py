"""Run records and what is made of them: tables, figures, one HTML report. Imports no torch, so reports are quick."""

from bdia.results.aggregate import Experiment, Variant, gather
from bdia.results.identity import config_sha256, git_state, run_id
from bdia.results.record import UNITS, Metric, RecordError, RunRecord
from bdia.results.spread import Spread
from bdia.results.store import read_records, write_record
from bdia.results.tables import table_text

__all__ = [
    "UNITS",
    "Experiment",
    "Metric",
    "RecordError",
    "RunRecord",
    "Spread",
    "Variant",
    "config_sha256",
    "gather",
    "git_state",
    "read_records",
    "run_id",
    "table_text",
    "write_record",
]
