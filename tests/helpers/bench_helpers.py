"""A model so small that a bench of it takes seconds, and rows made by hand."""

from bdia.bench.cases import Model
from bdia.bench.record import Bench, VariantRow

TINY = Model(
    overrides=("data=digits", "model=vit_demo", "model.net.width=16", "model.net.heads=2", "model.net.head_dim=8",
               "model.net.mlp_hidden=16"),
    unit="images",
    batch={"cpu": {2: 2}, "cuda": {2: 2}},
)  # fmt: skip
MIB = 2**20


def row(variant="standard", depth=6, ms=(100.0,) * 7, peak=100 * MIB, held=6000, stream=1000, **more):
    """A row of the paper's ViT; `memory` may be replaced as a whole."""
    memory = (
        {"peak": peak, "parameters": MIB, "activations": peak - MIB, "held": held, "stream": stream} if peak else {}
    )
    defaults = {
        "part": "table", "model": "vit_paper", "precision": "32-true", "label": variant, "overrides": [], "batch": 128,
        "unit": "images", "size": 128, "status": "ok" if ms else "oom", "memory": memory,
    }  # fmt: skip
    return VariantRow(**{**defaults, "variant": variant, "depth": depth, "ms": list(ms), **more})


def bench(*rows, **more):
    """A bench of these rows."""
    device = {"name": "Abacus", "count": 1, "threads": 2, "torch": "2.14.0", "cuda": None, "python": "3.11"}
    defaults = {
        "bench_id": "20260101T000000000000Z_abcdef0", "status": "ok", "git": {"sha": "abcdef0123", "dirty": False},
        "device": device, "environment": {"OMP_NUM_THREADS": "2"}, "arguments": {"repeats": 7},
        "started_utc": "2026-01-01T00:00:00+00:00", "wall_s": 60.0,
    }  # fmt: skip
    return Bench(rows=list(rows), **{**defaults, **more})
