"""Run records and what is made of them: tables, figures, one HTML report.

Imports no torch, so that reports are quick, and the plotting and page libraries only where they are used.
"""

from bdia import lazy_names

_MODULES = {
    **dict.fromkeys(("UNITS", "Metric", "RecordError", "RunRecord"), ".record"),
    **dict.fromkeys(("config_sha256", "git_state", "run_id"), ".identity"),
    **dict.fromkeys(("read_records", "write_record"), ".store"),
    **dict.fromkeys(("Experiment", "Spread", "Variant", "gather"), ".statistics"),
    "table_text": ".report",
}

__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
