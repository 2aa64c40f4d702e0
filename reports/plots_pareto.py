"""Plot of time against memory, with the configurations that nothing beats in both."""

from collections.abc import Iterable

import plotly.graph_objects as go

from autotune.reports.looks import Look
from autotune.reports.plot_style import INK, Plot, figure, log_axis
from autotune.reports.plots import points
from autotune.reports.rows import Entry
from autotune.reports.sections import Section


def pareto_plot(section: Section, looks: dict[str, Look]) -> Plot | None:
    """One figure for each length, the one with most results first; None where no row has time and memory."""
    at = {n: [e for e in section.entries if e.row.seq_len == n and _figures(e)] for n in section.lengths}
    lengths = sorted((n for n in at if at[n]), key=lambda n: (-len(at[n]), -n))
    if not lengths:
        return None
    return Plot(
        name="pareto",
        title="Time against memory",
        caption="Every believed configuration at one length, both axes logarithmic: filled points on the stepped line "
        "are the Pareto front, which nothing here beats in both; different patterns are different functions.",
        figures={f"{n:,} tokens": _figure(at[n], looks) for n in lengths},
    )


def front(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that no other beats in time and in memory at once, the fastest first.

    A row that is not ok, is flagged or has no memory is neither on the front nor able to keep another from it.
    """
    found: list[Entry] = []
    least = float("inf")
    for entry in sorted((entry for entry in entries if _figures(entry)), key=_figures):
        memory = _figures(entry)[1]
        if memory < least:
            found.append(entry)
            least = memory
    return found


def _figures(entry: Entry) -> tuple[float, ...]:
    """Time and memory; empty unless it has both."""
    time_ms, memory = entry.ranked_ms, entry.row.peak_memory_mib
    return (time_ms, memory) if time_ms and memory else ()


def _figure(entries: list[Entry], looks: dict[str, Look]) -> go.Figure:
    best = front(entries)
    times, memories = zip(*map(_figures, best), strict=True)
    steps = {"color": INK, "width": 1, "shape": "hv", "dash": "dot"}
    traces = [go.Scatter(x=times, y=memories, name="Pareto front", mode="lines", line=steps, hoverinfo="skip")]
    for name in dict.fromkeys(entry.row.implementation for entry in entries):
        own = [entry for entry in entries if entry.row.implementation == name]
        shapes = [(looks[name].marker if entry in best else looks[name].hollow)["symbol"] for entry in own]
        x, y = zip(*map(_figures, own), strict=True)
        marker = looks[name].hollow | {"symbol": shapes, "size": 11}
        traces.append(points(own, x, y, looks[name]).update(marker=marker))
    x, y = zip(*map(_figures, entries), strict=True)
    return figure(traces, log_axis("median time (ms)", x), log_axis("peak memory above inputs (MiB)", y))
