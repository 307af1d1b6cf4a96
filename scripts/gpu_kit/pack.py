"""Pack what a lent machine measured: records that ended well, the jobs' logs, weights without the optimizer's state.

    python scripts/gpu_kit/pack.py RUNS RESULTS OUT [NAME ...]

NAME is that of an experiment's records, such as table1_cifar10_few: its runs' final.ckpt and config.yaml are packed
too, in files of at most `LARGEST` bytes.
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import torch

LARGEST = 15 * 2**20  # bytes of one file that comes back


def pack_records(results: Path, out: Path) -> int:
    """Write `records.tar.gz`; return how many records of status "ok" are in it."""
    good = [path for path in sorted(results.glob("*/*.json")) if json.loads(path.read_text())["status"] == "ok"]
    with tarfile.open(out / "records.tar.gz", "w:gz") as tar:
        for path in good:
            tar.add(path, f"{path.parent.name}/{path.name}")
    return len(good)


def pack_logs(runs: Path, out: Path) -> None:
    """Write `logs.tar.gz`."""
    with tarfile.open(out / "logs.tar.gz", "w:gz") as tar:
        if (runs / "logs").is_dir():
            tar.add(runs / "logs", "logs")


def pack_weights(runs: Path, names: list[str], out: Path) -> int:
    """Write `weights_0.tar` and so on; return how many runs are in them."""
    files: list[list[tuple[str, bytes]]] = [[]]
    found = [path for name in names for path in sorted((runs / name).glob("*/final.ckpt"))]
    for path in found:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        buffer = io.BytesIO()
        torch.save({key: value for key, value in checkpoint.items() if key != "optimizer_states"}, buffer)
        place = f"{path.parent.parent.name}/{path.parent.name}"
        parts = [(f"{place}/{path.name}", buffer.getvalue())]
        parts += [(f"{place}/{name}", (path.parent / name).read_bytes()) for name in ("config.yaml", "record.json")]
        if sum(len(data) for _, data in files[-1] + parts) > LARGEST:
            files.append([])
        files[-1] += parts
    for number, parts in enumerate(files):
        with tarfile.open(out / f"weights_{number}.tar", "w") as tar:
            for name, data in parts:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return len(found)


def main() -> None:
    """Read the command line, pack."""
    runs, results, out = map(Path, sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    records, weights = pack_records(results, out), pack_weights(runs, sys.argv[4:], out)
    pack_logs(runs, out)
    print(f"{records} records, weights of {weights} runs")


if __name__ == "__main__":
    main()
