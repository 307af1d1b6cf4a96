"""The first screen: what BDIA means for memory and time in a sentence, the claims, one figure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bdia.results.claims import PEAK
from bdia.results.claims_table import ClaimRow
from bdia.results.figures import result_against_memory
from bdia.results.page.benchmarks import Benchmark
from bdia.results.page.order import place, split_name
from bdia.results.page.plot import Plot
from bdia.results.published import HALF_ON_GRID, form_of
from bdia.results.statistics import Experiment, Variant
from bdia.results.verdicts import CONTRADICTED, NOT_RESOLVED, NOT_RUN, REPRODUCED
from bdia.reversible.stacks.registry import BY_CLASS, STANDARD

ORDER = (REPRODUCED, CONTRADICTED, NOT_RESOLVED, NOT_RUN)


@dataclass(frozen=True)
class ShortClaim:
    """A claim in one line: its place and text, our difference, the verdict."""

    place: str
    text: str
    difference: str
    verdict: str

    @classmethod
    def of(cls, row: ClaimRow) -> "ShortClaim":
        """Shorten a row of the table of claims."""
        place, _, text = row.cells[0].partition(": ")
        return cls(place, text, row.cells[3].partition(" (")[0], row.cells[-1])


def counted(rows: Sequence[ClaimRow]) -> str:
    """Return how the claims ended, e.g. "5 reproduced, 1 contradicted"."""
    counts = Counter(row.cells[-1] for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ORDER if counts[verdict])


def in_a_sentence(experiments: Sequence[Experiment], measured: Sequence[Benchmark]) -> list[str]:
    """Return what BDIA costs in memory and time: of the first study that measured it, and by depth."""
    for experiment in sorted(experiments, key=lambda one: (not one.name.startswith("memory"), place(one.name))):
        if told := cost_of_a_step(experiment):
            return [told, *_depth(measured)]
    return _depth(measured)


def cost_of_a_step(experiment: Experiment) -> str:
    """Return what BDIA costs in memory and time beside the standard stack; "" where one of them was not measured."""
    ours = next((v for v in experiment.variants if v.runs and form_of(v.example.config) == HALF_ON_GRID), None)
    theirs = next((v for v in experiment.variants if v.runs and v.stack == STANDARD.class_name), None)
    return _step(experiment, ours, theirs) if ours and theirs else ""


def _step(experiment: Experiment, ours: Variant, theirs: Variant) -> str:
    memory, time = ours.spread_of(PEAK.of), ours.spread("step_time")
    base, base_time = theirs.spread_of(PEAK.of), theirs.spread("step_time")
    if not (memory and base and time and base_time and base.mean and base_time.mean):
        return ""
    share, slower = 1 - memory.mean / base.mean, time.mean / base_time.mean
    net = (ours.example.config.get("model") or {}).get("net") or {}
    batch = (ours.example.config.get("data") or {}).get("batch_size")
    size = ", ".join(f"{text} {value}" for text, value in (("blocks", net.get("depth")), ("batch", batch)) if value)
    changed = f"{share:.0%} less" if share > 0 else f"{-share:.0%} more"
    told = (
        f"With BDIA a training step needs {memory.mean:,.0f} MiB instead of {base.mean:,.0f} ({changed}) and takes "
        f"{slower:.1f} times as long as the standard stack's"
    )
    rival = next((v for v in experiment.variants if v.runs and v.stack == "CheckpointStack"), None)
    if rival and (peak := rival.spread_of(PEAK.of)) and (step := rival.spread("step_time")):
        told += f"; {BY_CLASS[rival.stack].label} needs {peak.mean:,.0f} MiB and {step.mean / base_time.mean:.1f} times"
    return f"{told} ({experiment.name}: {size}; {ours.example.device['name']})."


def _depth(measured: Sequence[Benchmark]) -> list[str]:
    for benchmark in measured:
        if benchmark.table is not None and benchmark.table.columns[-1] == "held by each further block, MiB":
            held = {row[0]: row[-1] for row in benchmark.table.rows}
            if {"BDIA", "standard", "checkpointing"} <= held.keys():
                return [
                    f"Each further block adds {held['BDIA']} MiB to what BDIA holds for backward, {held['standard']} "
                    f"to the standard stack's, {held['checkpointing']} to checkpointing's."
                ]
    return []


def first_figure(experiments: Sequence[Experiment]) -> tuple[str, Plot] | None:
    """Return accuracy against peak memory of the first study, at the scale with most runs, and that study's name."""
    drawn = [(one, plot) for one in experiments if (plot := result_against_memory(one)) and _compares(one)]
    if not drawn:
        return None
    first = min(place(one.name)[:2] for one, _ in drawn)
    same = [(one, plot) for one, plot in drawn if place(one.name)[:2] == first and split_name(one.name)[1] != "smoke"]
    if not same:
        return None
    chosen, plot = max(same, key=lambda pair: (len(pair[0].records), pair[0].name))
    return chosen.name, plot


def _compares(experiment: Experiment) -> bool:
    return len({variant.stack for variant in experiment.variants if variant.runs}) > 1
