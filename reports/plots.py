"""Plots of a figure against the length: time, memory, and the share of the device's matrix product that is reached."""

import textwrap
from collections.abc import Callable, Sequence
from itertools import chain

import plotly.graph_objects as go

from autotune.reports.figures import mebibytes, milliseconds, percent, spread
from autotune.reports.implementations import family
from autotune.reports.looks import Look
from autotune.reports.plot_style import ALERT, MUTED, Layout, Plot, axis, figure, length_axis, log_axis
from autotune.reports.rows import Entry, Row
from autotune.reports.sections import Section

Value = Callable[[Row], float | None]
FLOOR_DASHES = ("dot", "dashdot", "2px,6px", "8px,3px,2px,3px,2px,3px")


def time_plot(section: Section, looks: dict[str, Look]) -> Plot | None:
    """Median time, shortest and longest repeat, and the device's floor; None where nothing was timed."""
    series, floors = _series(section, looks, _time, _bars), _time_floors(section)
    if not series:
        return None
    below = "; thin grey: the device's floor, the function's operations at the measured matmul rate" if floors else ""
    return Plot(
        name="time",
        title="Time against length",
        caption="Median time of the fastest configuration, bars from the shortest to the longest repeat, both axes "
        f"logarithmic: lower is faster, and the heavy line is exact attention{below}.",
        figures={"": against_length([*series, *floors], "median time (ms)")},
    )


def memory_plot(section: Section, looks: dict[str, Look]) -> Plot | None:
    """Peak memory above the inputs, and the output's own size; None where no memory was measured."""
    series = _series(section, looks, _memory)
    if not series:
        return None
    return Plot(
        name="memory",
        title="Memory against length",
        caption="Peak memory above the inputs of the same configurations, both axes logarithmic: lower is leaner; "
        "thin grey: the floor, the bytes of the output itself.",
        figures={"": against_length([*series, _memory_floor(section)], "peak memory above inputs (MiB)")},
    )


def share_plot(section: Section, looks: dict[str, Look]) -> Plot | None:
    """Achieved operations a second, relative to the device's matrix product; None where either was not measured."""
    series = _series(section, looks, lambda row: row.matmul_share)
    if not series:
        return None
    peak = _line(section.lengths, [1.0] * len(section.lengths), "matmul rate", {"color": ALERT, "dash": "dot"})
    y = axis("share of matmul rate", tickformat=".0%", rangemode="tozero")
    return Plot(
        name="share",
        title="Share of the device's matmul rate",
        caption="Operations of the function a second, as a share of the fastest large matrix product measured here: "
        "higher uses the device better, and nothing honest passes the dotted line at 100 %.",
        figures={"": figure([*series, peak], length_axis(section.lengths), y)},
    )


def against_length(traces: Sequence[go.Scatter], name: str) -> go.Figure:
    """A figure whose both axes are logarithmic, the lengths marked across."""
    x, y = (list(chain.from_iterable(trace[axis] for trace in traces)) for axis in "xy")
    return figure(traces, length_axis(sorted(set(x))), log_axis(name, y))


def points(entries: Sequence[Entry], x: Sequence[float], y: Sequence[float | None], look: Look) -> go.Scatter:
    """One implementation's entries as points that tell all on hovering."""
    name = entries[0].row.implementation
    text = [hover(entry) for entry in entries]
    return go.Scatter(
        name=name, legendgroup=name, x=x, y=y, mode="markers", marker=look.marker, hovertext=text, hoverinfo="text"
    )


def hover(entry: Entry) -> str:
    """What a point tells, line by line; first of all if it is not believed."""
    row = entry.row
    lines = [f"flagged: {textwrap.shorten(row.flag, 90)}"] if row.flag else []
    lines += [f"{row.implementation}, {row.seq_len:,} tokens", f"{milliseconds(row.time_ms)} ms"]
    if row.repeats > 1:
        lines[-1] += f", {spread(row.time_min_ms, row.time_max_ms, row.time_ms)}, {row.repeats} repeats"
    lines.append(f"{mebibytes(row.peak_memory_mib)} MiB")
    lines += [f"{percent(row.matmul_share)} of the matmul rate"] if row.matmul_share else []
    return "\n".join([*lines, *textwrap.wrap(row.config, 60)])


def _series(
    section: Section, looks: dict[str, Look], value: Value, bars: Callable[[Sequence[Entry]], Layout] | None = None
) -> list[go.Scatter]:
    """A line for each implementation, broken where it failed; flagged rows beside it, not connected."""
    traces = []
    for name, group in section.implementations.items():
        line = [entry for _, entry in section.by_length(name) if entry]
        y = [value(entry.row) or None if entry.ranked_ms is not None else None for entry in line]
        if any(y):
            trace = points(line, _lengths(line), y, looks[name])
            traces.append(trace.update(mode="lines+markers", line=looks[name].line, error_y=bars and bars(line)))
        if flagged := [entry for entry in group if entry.row.flag and value(entry.row)]:
            trace = points(flagged, _lengths(flagged), [value(entry.row) for entry in flagged], looks[name])
            traces.append(trace.update(marker=looks[name].flagged, showlegend=not any(y)))
    return traces


def _bars(line: Sequence[Entry]) -> Layout:
    rows = [entry.row for entry in line]
    times = [(row.time_ms or 0, row.time_min_ms or 0, row.time_max_ms or 0) for row in rows]
    upper, lower = [high - mid for mid, _, high in times], [mid - low for mid, low, _ in times]
    return {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "thickness": 1, "width": 3}


def _time_floors(section: Section) -> list[go.Scatter]:
    """For each family of functions, its operations at the device's matmul rate."""
    if section.rate is None:
        return []
    floors: dict[str, dict[int, float]] = {}
    for cell in section.cells:
        time_ms = cell.pattern.flops(cell.problem) / section.rate.matmul_flops_per_s * 1e3
        floors.setdefault(family(cell.pattern, cell.seq_len), {})[cell.seq_len] = time_ms
    return [
        _line(list(floor), list(floor.values()), f"floor: {name}", {"dash": FLOOR_DASHES[number % len(FLOOR_DASHES)]})
        for number, (name, floor) in enumerate(floors.items())
    ]


def _memory_floor(section: Section) -> go.Scatter:
    sizes = {cell.seq_len: cell.problem.output_bytes / 2**20 for cell in section.cells}
    return _line(list(sizes), list(sizes.values()), "floor: output", {"dash": "dot"})


def _line(x: Sequence[float], y: Sequence[float], name: str, line: Layout) -> go.Scatter:
    style = {"color": MUTED, "width": 1.5, **line}
    marker = {"color": style["color"], "symbol": "line-ew-open", "size": 12}
    mode = "lines" if len(x) > 1 else "markers"
    return go.Scatter(x=x, y=y, name=name, mode=mode, line=style, marker=marker, hoverinfo="name")


def _lengths(entries: Sequence[Entry]) -> list[int]:
    return [entry.row.seq_len for entry in entries]


def _time(row: Row) -> float | None:
    return row.time_ms


def _memory(row: Row) -> float | None:
    return row.peak_memory_mib
