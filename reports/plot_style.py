"""How plots look: one look for each implementation, the same in every plot, and axes that fit a light or dark page.

Colours are named as the page's style sheet names them, so that a figure takes either theme. All text is plain: the
page escapes it, and makes its line breaks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import plotly.graph_objects as go

from autotune.reports.sections import Section
from autotune.strategies.pattern import Dense

INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
ALERT, SURFACE = "var(--alert)", "var(--surface)"
COLOURS = tuple(f"var(--line-{number})" for number in range(1, 7))
DASHES = ("solid", "dash", "longdashdot")
SYMBOLS = ("square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon", "triangle-left")
SYMBOLS += ("triangle-right", "bowtie", "hourglass")
FLAGGED = "x-open"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one implementation is drawn."""

    colour: str
    symbol: str
    dash: str = "solid"
    width: float = 2

    @property
    def line(self) -> Layout:
        """Of the line through its points."""
        return {"color": self.colour, "dash": self.dash, "width": self.width}

    @property
    def marker(self) -> Layout:
        """Of a point."""
        return {"color": self.colour, "symbol": self.symbol, "size": 8}

    @property
    def hollow(self) -> Layout:
        """Of a point that is there, but not among the best."""
        return self.marker | {"symbol": f"{self.symbol}-open", "line": {"color": self.colour, "width": 1.5}}

    @property
    def flagged(self) -> Layout:
        """Of a point that is not believed."""
        return self.marker | {"symbol": FLAGGED, "size": 10, "line": {"width": 1.5}}


def looks(sections: Iterable[Section], others: Iterable[str] = ()) -> dict[str, Look]:
    """The look of every implementation, by name: exact attention heavy, the first such in the colour of the text.

    No two of the first 66 share colour and symbol.

    Args:
        sections: whose implementations are drawn.
        others: names from elsewhere that are drawn beside them.
    """
    groups = [group for section in sections for group in section.implementations.items()]
    exact = {name for name, entries in groups if any(isinstance(entry.record.pattern, Dense) for entry in entries)}
    names = dict.fromkeys([*(name for name, _ in groups), *others])
    baseline = next((name for name in names if name in exact), None)
    found = {} if baseline is None else {baseline: Look(colour=INK, symbol="circle", width=4)}
    for number, name in enumerate(name for name in names if name != baseline):
        found[name] = Look(
            colour=COLOURS[number % len(COLOURS)],
            symbol=SYMBOLS[number % len(SYMBOLS)],
            dash=DASHES[number // len(COLOURS) % len(DASHES)],
            width=4 if name in exact else 2,
        )
    return found


def figure(traces: Traces, x: Layout, y: Layout, **layout: Any) -> go.Figure:
    """The traces in one pair of axes, what goes up named above it; the legend hides and shows."""
    found = go.Figure(list(traces))
    found.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 13},
        title=y["title"] | {"x": 0, "xref": "container", "y": 1, "yanchor": "top", "font": {"size": 14}, "pad": {"t": 8}},
        legend={"tracegroupgap": 0, "itemsizing": "trace"},
        hoverlabel={"bgcolor": SURFACE, "bordercolor": MUTED, "font": {"color": INK}, "align": "left"},
        margin={"l": 56, "r": 16, "t": 40, "b": 56},
        xaxis=x,
        yaxis=y | {"title": None},
        **layout,
    )
    return found


def axis(title: str, **options: Any) -> Layout:
    """A linear axis."""
    line = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": MUTED, "tickcolor": MUTED}
    return {"title": {"text": title}, "automargin": True, "ticks": "outside", **line, **options}


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
