"""How implementations are drawn: each the same in every plot, and no two alike without colour either."""

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.reports.plot_style import INK, Layout
from autotune.reports.sections import Section
from autotune.strategies.pattern import Dense

COLOURS = tuple(f"var(--line-{number})" for number in range(1, 7))
DASHES = ("solid", "dash", "longdashdot")
SYMBOLS = ["square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon", "triangle-left"]
SYMBOLS += ["triangle-right", "bowtie", "hourglass"]
FLAGGED = "x-open"


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
