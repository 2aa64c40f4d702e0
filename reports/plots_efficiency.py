"""Plot of the share of exact attention's rate that each implementation reaches."""

from autotune.reports.efficiency import Efficiency, held
from autotune.reports.looks import Look
from autotune.reports.plot_style import Plot, axis, figure, length_axis
from autotune.reports.plots import points
from autotune.reports.rows import Entry
from autotune.reports.sections import Section
from autotune.reports.source import Source


def dense_share_plot(section: Section, source: Source, looks: dict[str, Look]) -> Plot | None:
    """The share at each length, bars for single rounds; None where nothing was held against exact attention."""
    groups: dict[str, list[tuple[Entry, Efficiency]]] = {}
    for entry, beside in held(section, source.records):
        if beside.dense_share is not None:
            groups.setdefault(entry.row.implementation, []).append((entry, beside))
    if not groups:
        return None
    traces = []
    for name, group in groups.items():
        shares = [beside.dense_share or 0.0 for _, beside in group]
        upper = [(beside.dense_share_max or 0.0) - share for (_, beside), share in zip(group, shares, strict=True)]
        lower = [share - (beside.dense_share_min or 0.0) for (_, beside), share in zip(group, shares, strict=True)]
        bars = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "thickness": 1, "width": 3}
        entries = [entry for entry, _ in group]
        trace = points(entries, [entry.row.seq_len for entry in entries], shares, looks[name])
        traces.append(trace.update(mode="lines+markers", line=looks[name].line, error_y=bars))
    lengths = sorted({int(n) for trace in traces for n in trace.x})
    return Plot(
        name="dense-share",
        title="Share of exact attention's rate",
        caption="Operations of the function a second, as a share of what exact attention reaches in the same rounds, "
        "bars from the least to the most of a single round: at 100 % sparsity costs nothing but the operations left.",
        figures={
            "": figure(
                traces, length_axis(lengths), axis("share of dense's rate", tickformat=".0%", rangemode="tozero")
            )
        },
    )
