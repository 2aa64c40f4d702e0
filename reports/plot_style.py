"""Axes and figures that fit a light or a dark page.

Colours are named as the page's style sheet names them, so that a figure takes either theme. All text is plain: the
page escapes it, and makes its line breaks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import plotly.graph_objects as go

INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
ALERT, SURFACE = "var(--alert)", "var(--surface)"
CLEAR, FONT = "rgba(0,0,0,0)", "system-ui, sans-serif"
HEADING = {"x": 0, "xref": "container", "y": 1, "yanchor": "top", "pad": {"t": 8}, "font": {"size": 13}}

Layout = dict[str, Any]
Traces = Sequence[go.Scatter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure with what it says; of several figures, the reader picks one by its label.

    Args:
        name: stable and unique within a section.
        title: what it shows, in a few words.
        caption: what is plotted and how to read it, in one sentence.
        figures: by label; the first is shown first.
    """

    name: str
    title: str
    caption: str
    figures: dict[str, go.Figure]


def figure(traces: Traces, x: Layout, y: Layout, **layout: Any) -> go.Figure:
    """The traces in one pair of axes, what goes up named above it; the legend hides and shows."""
    found = go.Figure(list(traces))
    found.update_layout(
        template="none",
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"color": INK, "family": FONT, "size": 13},
        title=y["title"] | HEADING,
        legend={"tracegroupgap": 0, "itemsizing": "trace"},
        hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK, "family": FONT}, "align": "left"},
        modebar={"bgcolor": CLEAR, "color": MUTED, "activecolor": INK},
        margin={"l": 56, "r": 16, "t": 40, "b": 56},
        xaxis=x,
        yaxis=y | {"title": None},
        **layout,
    )
    return found


def axis(title: str, **options: Any) -> Layout:
    """A linear axis."""
    line = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": MUTED, "tickcolor": MUTED}
    return {"title": {"text": title, "font": {"size": 13}}, "automargin": True, "ticks": "outside", **line, **options}


def log_axis(title: str, values: Iterable[float | None], **options: Any) -> Layout:
    """A logarithmic axis whose numbers are written out, at 1, 2 and 5 or only at 1, as many as fit these values."""
    found = [value for value in values if value]
    decades = log10(max(found) / min(found)) if found else 0
    dtick = None if decades < 0.8 else "D2" if decades < 4 else 1
    text = {"exponentformat": "none", "separatethousands": True, "minorloglabels": "complete"}
    return axis(title, type="log", dtick=dtick, **text, **options)


def length_axis(lengths: Sequence[int]) -> Layout:
    """A logarithmic axis with a mark at each length that was tried."""
    return axis("sequence length (tokens)", type="log", tickvals=list(lengths), ticktext=[tokens(n) for n in lengths])


def tokens(length: int) -> str:
    """A length as the command line takes it.

    >>> tokens(512), tokens(4096), tokens(100_000), tokens(1_048_576)
    ('512', '4k', '100,000', '1m')
    """
    for unit, name in ((2**20, "m"), (2**10, "k")):
        if length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"
