"""The largest size that fits into a budget, where a size's need is expensive to ask for and nearly a straight line."""

from collections.abc import Callable, Mapping, Sequence

LARGEST = 2**24  # batches and depths end here
STRAIGHT = 6  # after so many questions the need is no line, and halving the gap is quicker


def largest_that_fits(
    need: Callable[[int], float], budget: float, starts: Sequence[int], least: int = 1, most: int = LARGEST
) -> int:
    """Return the largest n from least to most with need(n) <= budget, least - 1 if there is none.

    need(n) should not fall as n grows. The straight line only guides the search: need was called for the answer and
    for the next number.

    Args:
        need: called once per n.
        starts: where to begin, one or two numbers from least to most.
    """
    known = {n: need(n) for n in starts}
    while True:
        low = max((n for n, size in known.items() if size <= budget), default=least - 1)
        high = min((n for n, size in known.items() if size > budget and n > low), default=most + 1)
        if high - low <= 1:
            return low
        guess = _next(known, budget, low, high)
        known[guess] = need(guess)


def _next(known: Mapping[int, float], budget: float, low: int, high: int) -> int:
    """Continue the line through the two points nearest to the gap between low and high; stay in it, and near them."""
    a, *others = sorted(known, key=lambda n: min(abs(n - low), abs(n - high)))
    bounded = high in known
    if not others:
        guess = a // 2 if bounded else 2 * a
    elif len(known) > STRAIGHT and bounded:
        guess = (low + high) // 2
    else:
        slope = (known[others[0]] - known[a]) / (others[0] - a)
        furthest = 8 * max(known)
        guess = min(int(a + (budget - known[a]) / slope), furthest) if slope > 0 else furthest
    return min(max(guess, low + 1), high - 1)
