"""How the variants of an experiment look in a figure: colour, name, lines of a label."""

import colorsys
from collections.abc import Sequence

from bdia.results.page.plot import safe
from bdia.results.statistics import Experiment, Variant
from bdia.reversible.stacks.registry import BY_CLASS

OTHER_COLOUR = "#8A8A8A"  # of a stack that is not in the registry
LABEL = 22  # characters of a variant's name beside a bar


def styled_variants(experiment: Experiment) -> list[tuple[Variant, str, int]]:
    """Return (variant, colour, place among the variants of its stack) for each variant that has runs."""
    shown = [variant for variant in experiment.variants if variant.runs]
    styled = []
    for variant in shown:
        same = [other.settings for other in shown if other.stack == variant.stack]
        place = same.index(variant.settings)
        colour = colour_of(variant.stack)
        styled.append((variant, _shade(colour, place, len(same)), place))
    return styled


def _shade(colour: str, place: int, count: int) -> str:
    """Return the stack's colour if it has one variant; else a shade of it, darkest for the first variant."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)))
    shade = colorsys.hls_to_rgb(hue, 0.25 + 0.45 * place / (count - 1), saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)


def named(variant: Variant, n: int) -> str:
    """Return the text of the variant in a legend."""
    return f"{variant.label} (n={n})"


def rows_height(labels: Sequence[str], row: int) -> int:
    """Return the pixels of rows that are equally high, of `row` and 16 for each further line of the longest label."""
    return len(labels) * (row + 16 * max(label.count("<br>") for label in labels))


def broken(label: str) -> str:
    """Break a label into lines of plotly's text."""
    lines: list[str] = [""]
    for word in label.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LABEL:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(map(safe, lines))


def short(value: float) -> float:
    """Return a number with five digits, so that a page does not grow with digits that nobody sees."""
    return float(f"{value:.5g}")


def colour_of(stack: str) -> str:
    """Return a stack's colour by its class name."""
    return BY_CLASS[stack].colour if stack in BY_CLASS else OTHER_COLOUR
