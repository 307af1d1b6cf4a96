"""Figures of the page: plotly's JSON, the same for the same numbers, and a legend that the page sets as text."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

GRID, INK = "#D9DDE1", "#1C1E21"
DASHES = ("solid", "dash", "dashdot", "dot", "longdash")  # one per variant of a stack; they share its hue
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down")
HEIGHT = 380  # pixels


@dataclass(frozen=True)
class Plot:
    """A figure in the page.

    Args:
        caption: what it shows; names what the bars or bands are.
        json: plotly's data and layout.
        legend: (colour, text) of each entry.
        height: pixels.
    """

    caption: str
    json: str
    legend: tuple[tuple[str, str], ...]
    height: int = HEIGHT


def make_plot(caption: str, figure: go.Figure, legend: Sequence[tuple[str, str]], height: int = HEIGHT) -> Plot:
    """Give a figure the page's looks; its width is the page's."""
    figure.update_layout(
        template="none", height=height, autosize=True, showlegend=False, hovermode="closest",
        margin={"l": 8, "r": 12, "t": 28, "b": 8}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13, "color": INK, "family": "system-ui, sans-serif"},
    )  # fmt: skip
    look = {"automargin": True, "gridcolor": GRID, "zeroline": False, "linecolor": GRID, "title_standoff": 8}
    figure.update_xaxes(**look)
    figure.update_yaxes(**look)
    entries = tuple(dict.fromkeys(legend))
    return Plot(caption, _inside_script(figure.to_json(engine="json")), entries, height)


def safe(text: str) -> str:
    """Return a text for plotly, which reads tags in it."""
    return html.escape(text, quote=False)


def rgba(colour: str, opacity: float) -> str:
    """Return "#RRGGBB" with an opacity, as a band's colour."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _inside_script(json: str) -> str:
    return json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
