"""How much of a suite ran, and was believed."""

from autotune.reports.sections import Section
from autotune.strategies.pattern import Dense
from autotune.strategies.suite import Suite


def tally(section: Section, suite: Suite) -> str:
    """How many cells of the suite are ok; the exact baseline is counted by itself."""
    baseline = {each.name for each in suite.of(Dense())}
    exact = [name for name in section.implementations if name in baseline]
    text = _cells(section, [name for name in section.implementations if name not in baseline])
    return "; ".join([f"{text} ok", *(f"{_cells(section, [name])} of the exact baseline {name}" for name in exact)])


def _cells(section: Section, names: list[str]) -> str:
    cells = [entry for name in names for n, entry in section.by_length(name) if n in section.grid]
    believed = sum(entry is not None and entry.ranked_ms is not None for entry in cells)
    return f"{believed} of {len(cells)} cells"
