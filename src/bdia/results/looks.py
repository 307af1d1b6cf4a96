"""How the figures look: colours that stay with a stack, the page's ink, legends that fit, SVG text."""

import colorsys
import io
import re
from collections.abc import Iterable
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from bdia.results.aggregate import Experiment, Variant

# Okabe and Ito's colours, told apart with any colour vision; one per stack in every figure.
STACK_COLOURS = {"StandardStack": "#0072B2", "CheckpointStack": "#009E73", "RevVitStack": "#CC79A7"}
STACK_COLOURS |= {"BdiaStack": "#D55E00"}
OTHER_COLOUR = "#8A8A8A"
LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))  # variants of one stack share its hue
MARKERS = ("o", "s", "^", "D", "v")
INK = "#010203"  # stands for the page's text colour, light or dark
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, searchable
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    "grid.color": INK,
}
CHARACTER, LINE = 0.085, 0.26  # inches that a character is wide and a line of a legend high, at most


def looks(experiment: Experiment) -> list[tuple[Variant, str, int]]:
    """Return each variant with runs, its colour, and its place among the variants of its stack."""
    shown = [variant for variant in experiment.variants if variant.runs]
    looks = []
    for variant in shown:
        same = [other.settings for other in shown if other.stack == variant.stack]
        place = same.index(variant.settings)
        looks.append((variant, _shade(STACK_COLOURS.get(variant.stack, OTHER_COLOUR), place, len(same)), place))
    return looks


def _shade(colour: str, place: int, count: int) -> str:
    """Return the stack's colour itself for a single variant, else its shade from dark to light."""
    if count == 1:
        return colour
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, 0.25 + 0.45 * place / (count - 1), saturation))


def named(variant: Variant, n: int) -> str:
    """Return the variant's entry in a legend."""
    return f"{variant.label} (n={n})"


def legend_columns(labels: Iterable[str], width: float) -> int:
    """Return two columns where the labels fit into `width` inches side by side, else one."""
    return 2 if max(map(len, labels), default=0) * CHARACTER + 0.6 < width / 2 else 1


def legend_height(experiment: Experiment, width: float) -> float:
    """Return the inches that the legend of all variants needs below a figure of that width."""
    labels = [wrapped(named(variant, len(variant.runs)), width) for variant in experiment.variants]
    columns = legend_columns(labels, width)
    heights = [1 + label.count("\n") for label in labels]
    return LINE * (1 + sum(max(heights[row : row + columns]) for row in range(0, len(heights), columns)))


def wrapped(label: str, width: float) -> str:
    """Break the label into lines that fit into `width` inches beside a legend's line."""
    return fill(label, int((width - 0.8) / CHARACTER))


def legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend of all panels below the figure."""
    width = figure.get_figwidth()
    entries = {
        wrapped(label, width): handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower left", ncols=legend_columns(entries, width))


def svg_text(figure: Figure, salt: str) -> str:
    """Return the figure as an <svg> element: the same bytes for the same numbers, scaled by the page."""
    buffer = io.StringIO()
    unnamed = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=unnamed)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # ids of groups repeat from figure to figure and nothing refers to them
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    return text.replace(INK, "currentColor")
