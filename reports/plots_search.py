"""Plot of a search: what was tried, in which order, and the best so far."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, chain

import plotly.graph_objects as go

from autotune.db.records import Choice, Status
from autotune.reports.implementations import family
from autotune.reports.looks import Look
from autotune.reports.plot_style import ALERT, INK, Layout, Plot, axis, figure, log_axis
from autotune.reports.plots import hover, points
from autotune.reports.rows import Entry, entries
from autotune.reports.sections import Cell, Section
from autotune.reports.source import Source

INFINITE = float("inf")


def search_plot(section: Section, source: Source, looks: dict[str, Look]) -> Plot | None:
    """One figure for each cell that was searched, the longest first; None where none was."""
    figures = {
        f"{cell.seq_len:,} tokens, {family(cell.pattern, cell.seq_len)}": _figure(history(cell, source), choice, looks)
        for cell in reversed(section.cells)
        if (choice := cell.choice) and sum(entry.row.status != Status.SKIPPED for entry in cell.entries) > 1
    }
    if not figures:
        return None
    return Plot(
        name="search",
        title="History of the search",
        caption="Every measurement of one cell in the order it was taken, time logarithmic, with the best so far as a "
        "stepped line and a ring around what was chosen; crosses in the strip above are attempts that are not ok.",
        figures=figures,
    )


def history(cell: Cell, source: Source) -> list[Entry]:
    """Every attempt on a cell in the order taken, those that a later one replaced among them."""
    key = (cell.entries[0].record.environment, cell.problem, cell.pattern)
    own = [record for record in source.records if (record.environment, record.problem, record.pattern) == key]
    ordered = sorted(own, key=lambda record: (record.created_at, record.id))
    return list(chain.from_iterable(entries(replace(source, records=(record,))) for record in ordered))


def best_so_far(tried: Sequence[Entry]) -> list[float | None]:
    """The shortest believed time up to each attempt; None before there is one."""
    times = accumulate((entry.ranked_ms or INFINITE for entry in tried), min)
    return [None if time == INFINITE else time for time in times]


def _figure(tried: list[Entry], choice: Choice, looks: dict[str, Look]) -> go.Figure:
    numbered = list(enumerate(tried, start=1))
    numbers = [number for number, _ in numbered]
    steps = {"color": INK, "width": 1.5, "shape": "hv"}
    traces = [go.Scatter(x=numbers, y=best_so_far(tried), name="best so far", line=steps, mode="lines")]
    for name in dict.fromkeys(entry.row.implementation for entry in tried):
        own = [(number, entry) for number, entry in numbered if entry.row.implementation == name]
        traces += _attempts([pair for pair in own if pair[1].ranked_ms is not None], looks[name], looks[name].marker)
        traces += _failures([pair for pair in own if pair[1].ranked_ms is None], looks[name])
    chosen = [(number, entry) for number, entry in numbered if entry.record.id == choice.measurement_id]
    ring = {"symbol": "circle-open", "size": 18, "color": ALERT, "line": {"width": 2}}
    traces += [trace.update(name="chosen", legendgroup="chosen") for trace in _attempts(chosen, looks[name], ring)]
    strip = {"domain": [0.93, 1], "range": [0, 2], "fixedrange": True, "visible": False}
    x = axis("measurement, in the order taken", rangemode="tozero", dtick=max(1, len(tried) // 10))
    y = log_axis("median time (ms)", (entry.ranked_ms for entry in tried), domain=[0, 0.9])
    return figure(traces, x, y, yaxis2=strip)


def _attempts(own: Sequence[tuple[int, Entry]], look: Look, marker: Layout) -> list[go.Scatter]:
    if not own:
        return []
    numbers, tried = zip(*own, strict=True)
    return [points(tried, numbers, [entry.ranked_ms for entry in tried], look).update(marker=marker)]


def _failures(own: Sequence[tuple[int, Entry]], look: Look) -> list[go.Scatter]:
    """Crosses in the strip: there is no time to draw them at."""
    if not own:
        return []
    numbers, tried = zip(*own, strict=True)
    text = [f"{entry.status_text}\n{hover(entry)}" for entry in tried]
    trace = points(tried, numbers, [1] * len(own), look)
    return [trace.update(marker=look.flagged, hovertext=text, showlegend=False, yaxis="y2")]
