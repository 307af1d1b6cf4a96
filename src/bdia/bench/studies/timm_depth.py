"""timm's own checkpointing beside this project's, on a timm ViT: memory of a whole step against depth."""

from collections.abc import Sequence
from typing import Any

from bdia.bench.studies.whole_step import IN_BACKWARD, WAYS, Way, memory
from bdia.build import compose
from bdia.profiling.workload import build_workload

QUESTION = "depth of timm's ViT"
OWN = "timm_in_backward"
TIMM_WAYS = {
    OWN: Way("timm's checkpointing, stepped in backward", ("stack=standard", IN_BACKWARD)),
    **{name: WAYS[name] for name in ("checkpoint_in_backward", "bdia_in_backward")},
}


def timm_rows(depth: int, batch: int, ways: Sequence[str] = tuple(TIMM_WAYS)) -> list[dict[str, Any]]:
    """Return a row per way of `vit_tiny_patch16_224` with 32 x 32 images: bytes at the peak of a step."""
    rows = []
    for name in ways:
        way = TIMM_WAYS[name]
        cfg = compose(["model=timm_vit", f"+model.net.depth={depth}", "optimizer=adamw", *way.overrides])
        work = build_workload(cfg, batch)
        work.task.net.set_grad_checkpointing(name == OWN)
        found = memory(work, way)
        if name == OWN:
            found.pop("held")  # timm calls the blocks and not their stack, on whose call it is counted
        row = {"question": QUESTION, "way": name, "label": way.label, "depth": depth, "tokens": 65, "batch": batch}
        rows.append(row | {"origin": "measured"} | found)
    return rows
