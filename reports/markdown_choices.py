"""Which value of each choice was the fastest, function by function and length by length."""

from collections.abc import Iterator, Mapping

from autotune.reports.figures import milliseconds, times
from autotune.reports.markdown_text import code, table
from autotune.reports.sections import Cell, Section
from autotune.strategies.config import Value

CHOICES = [">seq_len", "function", "choice", "fastest", ">median ms", "others, and their time over it"]


def choices(section: Section) -> str:
    """One line for each choice of which more than one value ran: what measuring decided, where a rule might have."""
    lines = [[f"{cell.seq_len:,}", code(cell.pattern.label), *line] for cell in section.cells for line in _lines(cell)]
    return table(CHOICES, lines) if lines else "Nowhere did more than one value of a choice run."


def _lines(cell: Cell) -> Iterator[list[str]]:
    for name, best_ms in _best_ms(cell).items():
        (fastest, least_ms), *others = sorted(best_ms.items(), key=lambda pair: pair[1])
        if others:
            rest = ", ".join(f"{code(str(value))} {times(time_ms / least_ms)}" for value, time_ms in others)
            yield [name, code(str(fastest)), milliseconds(least_ms), rest]


def _best_ms(cell: Cell) -> Mapping[str, Mapping[Value, float]]:
    """Of each choice the median of the fastest configuration with each value; the strategy is the first choice."""
    found: dict[str, dict[Value, float]] = {}
    for entry in cell.entries:
        if (time_ms := entry.ranked_ms) is not None:
            config = entry.record.config
            for name, value in (("strategy", config.strategy), *config.params):
                choice = found.setdefault(name if name == "strategy" else f"{name} of {config.strategy}", {})
                choice[value] = min(time_ms, choice.get(value, time_ms))
    return found
