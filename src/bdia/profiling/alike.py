"""A step through many blocks that are alike, from steps through a few of them."""

from collections.abc import Callable

from bdia.profiling.moments import Moments

RUN = 4  # blocks of a short run: two of them are counted from each end
KEPT = 2  # of the trailing blocks that keep their activations

Trace = Callable[[tuple[int, ...], int], Moments]  # of the blocks of each run, and of how many in each are kept


def alike_moments(trace: Trace, depths: tuple[int, ...], keep: int = 0) -> Moments | None:
    """Return the moments of a step; it is traced with few blocks and extended, see `Moments.extended`.

    Args:
        trace: traces a step, given the blocks of each run and how many trailing blocks of each keep their activations.
        depths: blocks of each run; a model of one stack has one run, an encoder-decoder two.
        keep: trailing blocks that keep their activations; other blocks are recomputed or not, all in the same way.
    Returns:
        None if blocks turn out not to be alike, or if both runs of two keep more than `KEPT` blocks.
    """
    keep = min(keep, *depths)
    kept = min(keep, KEPT)
    short = tuple(kept + min(depth - keep, RUN) for depth in depths)
    if sum(depths) <= sum(short) + 2:
        return trace(depths, keep)
    if keep > kept and len(depths) > 1:
        return None
    longer = [
        (trace(_one_more(short, run), kept), depth - keep - (few - kept))
        for run, (depth, few) in enumerate(zip(depths, short, strict=True))
        if depth - keep > few - kept
    ]
    if keep > kept:
        longer.append((trace(_one_more(short, 0), kept + 1), keep - kept))
    return trace(short, kept).extended(longer)


def _one_more(depths: tuple[int, ...], run: int) -> tuple[int, ...]:
    return tuple(depth + (place == run) for place, depth in enumerate(depths))
