"""How the bench's plots look: matplotlib's settings, one legend below all panels, SVG with the same bytes."""

import io
import re
from collections.abc import Iterable
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))  # one per variant of a stack; they share its hue
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
CHARACTER, LINE = 0.085, 0.26  # largest width of a character and height of a line in a legend, inches


def legend_columns(labels: Iterable[str], width: float) -> int:
    """Return two columns where the labels fit into `width` inches side by side, else one."""
    return 2 if max(map(len, labels), default=0) * CHARACTER + 0.6 < width / 2 else 1


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
    with rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=unnamed)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # several figures have the same ids; nothing needs them
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    return text.replace(INK, "currentColor")
