"""Run records and what is made of them: tables, figures, one HTML report.

Imports no torch, so that reports are quick, and the plotting and page libraries only where they are used.
"""

from typing import TYPE_CHECKING

from bdia import lazy_names

if TYPE_CHECKING:  # what a type checker or an editor reads
    from bdia.results.identity import config_sha256 as config_sha256
    from bdia.results.identity import git_state as git_state
    from bdia.results.identity import run_id as run_id
    from bdia.results.record import UNITS as UNITS
    from bdia.results.record import Metric as Metric
    from bdia.results.record import RecordError as RecordError
    from bdia.results.record import RunRecord as RunRecord
    from bdia.results.report import table_text as table_text
    from bdia.results.statistics import Experiment as Experiment
    from bdia.results.statistics import Spread as Spread
    from bdia.results.statistics import Variant as Variant
    from bdia.results.statistics import gather as gather
    from bdia.results.store import read_records as read_records
    from bdia.results.store import write_record as write_record

_MODULES = {
    **dict.fromkeys(("UNITS", "Metric", "RecordError", "RunRecord"), ".record"),
    **dict.fromkeys(("config_sha256", "git_state", "run_id"), ".identity"),
    **dict.fromkeys(("read_records", "write_record"), ".store"),
    **dict.fromkeys(("Experiment", "Spread", "Variant", "gather"), ".statistics"),
    "table_text": ".report",
}

__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
