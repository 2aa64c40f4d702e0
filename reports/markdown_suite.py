"""What the Markdown report says of a suite: exact definitions, and all its cells at a glance."""

from collections.abc import Callable, Sequence

from autotune.db.records import Status
from autotune.reports.definitions import CAUSAL, definitions, functions
from autotune.reports.figures import mebibytes, milliseconds
from autotune.reports.markdown_text import bullets, code, table
from autotune.reports.rows import Entry, Row
from autotune.reports.sections import Section
from autotune.reports.tally import tally
from autotune.strategies.suite import Suite


def defined(suite: Suite, sections: Sequence[Section]) -> str:
    """Each implementation with the function that its name promises, then each function."""
    rows = [
        f"{code(each.name)}: {each.text}"
        + (f" Function computed: {', '.join(map(code, each.families))}." if each.families else " Not run.")
        for each in definitions(suite, sections)
    ]
    exact = [f"{code(each.family)}: {each.formula} Here: {each.text}." for each in functions(sections)]
    return f"## Definitions\n\n{bullets(rows)}\n\nThe functions computed. {CAUSAL}\n\n{bullets(exact)}"


def glance(section: Section, suite: Suite) -> str:
    """Time and memory of every implementation at every length of the grid."""
    parts = [
        f"{tally(section, suite)}.",
        "Median time in ms:",
        _matrix(section, lambda row: milliseconds(row.time_ms)),
        "Peak memory in MiB:",
        _matrix(section, lambda row: mebibytes(row.peak_memory_mib)),
    ]
    if others := [f"{n:,}" for n in section.lengths if n not in section.grid]:
        parts.append(f"Run by few implementations, so only in the detailed results: {', '.join(others)} tokens.")
    return "\n\n".join(parts)


def _matrix(section: Section, figure: Callable[[Row], str]) -> str:
    lines = []
    for name in section.implementations:
        found = dict(section.by_length(name))
        cells = (_cell(entry, figure) if (entry := found.get(n)) else section.absent for n in section.grid)
        lines.append([code(name), *cells])
    return table(["implementation", *(f">{n:,}" for n in section.grid)], lines)


def _cell(entry: Entry, figure: Callable[[Row], str]) -> str:
    if entry.row.status != Status.OK:
        return entry.status_text
    return f"{figure(entry.row)} (flagged)" if entry.row.flag else figure(entry.row)
