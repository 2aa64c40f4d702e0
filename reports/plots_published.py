"""Plot of figures published elsewhere beside ours."""

from collections.abc import Sequence

import plotly.graph_objects as go

from autotune.reports.figures import finite, mebibytes, milliseconds
from autotune.reports.looks import Look
from autotune.reports.plot_style import Plot
from autotune.reports.plots import against_length, points
from autotune.reports.published import Published
from autotune.reports.sections import Section


def published_plot(section: Section, published: Sequence[Published], looks: dict[str, Look]) -> Plot | None:
    """Ours and theirs, implementation by implementation; None where nothing was published with a time."""
    timed = [each for each in published if finite(each.time_ms)]
    if not timed:
        return None
    names = dict.fromkeys(each.implementation for each in published)
    ours = {name: _ours(section, name, looks[name]) for name in names}
    theirs = {name: _theirs([each for each in timed if each.implementation == name], looks[name]) for name in names}
    missing = "" if any(ours.values()) else "; none of these names is ours here, the report of a suite has them"
    return Plot(
        name="published",
        title="Published figures beside ours",
        caption="Median time against length, both axes logarithmic: solid with filled points is ours, dotted with "
        f"hollow points is what was published, which is from another device and was verified by nobody here{missing}.",
        figures={"": against_length([trace for name in names for trace in ours[name] + theirs[name]], "time (ms)")},
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
