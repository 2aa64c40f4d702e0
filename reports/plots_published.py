"""Plot of figures published elsewhere beside ours."""

from collections.abc import Sequence

import plotly.graph_objects as go

from autotune.reports.figures import finite, mebibytes, milliseconds
from autotune.reports.plot_style import Look, Plot, figure, length_axis, log_axis
from autotune.reports.plots import points
from autotune.reports.published import Published
from autotune.reports.sections import Section


def published_plot(section: Section, published: Sequence[Published], looks: dict[str, Look]) -> Plot | None:
    """Ours and theirs, implementation by implementation; None where nothing was published with a time."""
    timed = [each for each in published if finite(each.time_ms)]
    if not timed:
        return None
    traces = []
    for name in dict.fromkeys(each.implementation for each in published):
        traces += _ours(section, name, looks[name])
        traces += _theirs([each for each in timed if each.implementation == name], looks[name])
    lengths = sorted({*section.lengths, *(each.seq_len for each in timed)})
    return Plot(
        name="published",
        title="Published figures beside ours",
        caption="Median time against length, both axes logarithmic: solid with filled points is ours, dotted with "
        "hollow points is what was published, which is from another device and was verified by nobody here.",
        figures={"": figure(traces, length_axis(lengths), log_axis("time (ms)", (each for trace in traces for each in trace.y)))},
    )


def _ours(section: Section, name: str, look: Look) -> list[go.Scatter]:
    line = [entry for _, entry in section.by_length(name) if entry] if name in section.implementations else []
    if all(entry.ranked_ms is None for entry in line):
        return []
    trace = points(line, [entry.row.seq_len for entry in line], [entry.ranked_ms for entry in line], look)
    return [trace.update(mode="lines+markers", line=look.line | {"dash": "solid"})]


def _theirs(line: Sequence[Published], look: Look) -> list[go.Scatter]:
    if not line:
        return []
    ordered = sorted(line, key=lambda each: each.seq_len)
    text = [
        f"published, not verified\n{each.implementation}, {each.seq_len:,} tokens\n"
        f"{milliseconds(each.time_ms)} ms\n{mebibytes(finite(each.peak_memory_mib))} MiB"
        for each in ordered
    ]
    trace = go.Scatter(
        name=f"{ordered[0].implementation}, published",
        legendgroup=ordered[0].implementation,
        x=[each.seq_len for each in ordered],
        y=[each.time_ms for each in ordered],
        mode="lines+markers",
        line=look.line | {"dash": "dot"},
        marker=look.hollow,
        hovertext=text,
        hoverinfo="text",
    )
    return [trace]
