"""Where the parts of the repository lie, and the data beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "results"
SHARED = ROOT.parent / "shared" / "data"
