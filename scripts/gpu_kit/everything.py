"""One command on a GPU machine: check it, run the gpu tests, the bench and Table 1, each within its share of a budget.

    python scripts/gpu_kit/everything.py --seconds 540 --out OUT [--data FOLDER] [--scale few] [--only check,tests]

Parts run in this order, one after the other, so that a time is not taken beside a test. A part that its share cuts off
is stopped, and the next one starts; a part that failed stops nothing. `OUT/summary.json` says how each ended and in
what time, `OUT/<part>.log` has what it printed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GRACE = 20  # seconds between the request to stop, on which trainings save, and the end
CHECK = (
    "import torch; x = torch.ones(8, device='cuda'); assert x.sum().item() == 8; print(torch.cuda.get_device_name())"
)


class Part(NamedTuple):
    """A command, and its share of what is left of the budget when it starts; the last one's is 1."""

    name: str
    command: list[str]
    share: float


def parts(out: Path, scale: str, data: str, seconds: float) -> list[Part]:
    """Return all parts."""
    python, bdia = [sys.executable], [sys.executable, "-m", "bdia.cli"]
    bench = ["quick=true", "device=cuda", f"out={out / 'bench'}"]
    table = ["only=[table1_cifar10]", f"scale={scale}", f"budget={max(30, int(seconds * 0.4))}s", f"data={data}"]
    return [
        Part("check", [*python, "-c", CHECK], 0.2),
        Part("tests", [*python, "-m", "pytest", "-q", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests"], 0.45),
        Part("gpu_check", [*python, "scripts/gpu_check.py", "--out", str(out / "gpu_check"), "--seconds", "60"], 0.25),
        Part("bench", [*bdia, "bench", *bench], 0.25),
        Part("table1", [*bdia, "studies", *table, f"results={out / 'results'}", f"runs={out / 'runs'}"], 1.0),
    ]


def run_part(part: Part, seconds: float, out: Path, environment: Mapping[str, str]) -> dict[str, object]:
    """Run a part for at most so many seconds; return its name, how it ended, and its seconds."""
    began = time.monotonic()
    with (out / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        ended = "ok"
        for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, GRACE)):
            try:
                process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                ended = "stopped"
                os.killpg(process.pid, number)
        code = process.wait()
    if ended == "ok" and code:
        ended = "failed"
    return {"part": part.name, "ended": ended, "exit": code, "s": round(time.monotonic() - began, 1)}


def run_all(todo: Sequence[Part], seconds: float, out: Path) -> list[dict[str, object]]:
    """Run the parts within a budget; write the summary after each. A machine that fails the check runs nothing more."""
    out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    end, summary = time.monotonic() + seconds, []
    for part in todo:
        left = end - time.monotonic() - GRACE
        if left < 1:
            summary.append({"part": part.name, "ended": "not started", "exit": None, "s": 0.0})
        else:
            summary.append(run_part(part, part.share * left, out, os.environ | {"PYTHONPATH": path}))
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(summary[-1], flush=True)
        if part.name == "check" and summary[-1]["ended"] != "ok":
            break
    return summary


def main() -> None:
    """Read the command line; exit code 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, required=True, help="budget for all parts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default=os.environ.get("BDIA_DATA", "data"), help="folder with the data sets")
    parser.add_argument("--scale", default="few", help="of Table 1")
    parser.add_argument("--only", default="", help="names of parts, with commas; empty: all")
    given = parser.parse_args()
    out = given.out.resolve()
    todo = parts(out, given.scale, given.data, given.seconds)
    chosen = [part for part in todo if not given.only or part.name in given.only.split(",")]
    sys.exit(any(row["ended"] == "failed" for row in run_all(chosen, given.seconds, out)))


if __name__ == "__main__":
    main()
