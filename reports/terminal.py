"""The report in a terminal: what won each cell, and how each implementation's time grows."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from autotune.reports.efficiency import Efficiency, held
from autotune.reports.figures import MISSING, mebibytes, milliseconds, percent, rate, times
from autotune.reports.implementations import family
from autotune.reports.rates import NO_RATES
from autotune.reports.rows import Entry, Row
from autotune.reports.sections import Cell, Section, nothing, sections, statuses
from autotune.reports.source import Source
from autotune.reports.sparkline import BARS, GAP, sparkline
from autotune.reports.tally import tally
from autotune.reports.terminal_text import table

WINNERS = ["pattern", ">length", "configuration", ">ms", ">MiB", ">vs dense"]
EFFICIENCY = ["implementation", ">length", ">ms", ">TFLOP/s", ">of dense", ">vs exact", ">MiB"]
MARKS = {"same race": "", "another time": "*", "predicted": "~", "": ""}
IMPLEMENTATIONS = ["implementation", ">ok", ">longest", ">ms there", ">MiB", "time"]


def terminal_summary(source: Source) -> RenderableType:
    """For each environment and setting the winner of every cell, and a line of bars for every implementation."""
    found = sections(source)
    parts = (part for section in found for part in _section(section, source))
    return Group(*parts) if found else Text(nothing(source))


def _section(section: Section, source: Source) -> Iterator[RenderableType]:
    yield Text(f"{section.environment.device_name}: {section.setting.text}\n", style="bold")
    if section.suite:
        yield Text(f"{tally(section, section.suite)}\n")
        yield from _efficiency(held(section, source.records))
    else:
        yield table(WINNERS, [_winner(section, cell) for cell in section.cells])
        yield Text()
    fastest = [entry.ranked_ms for entry in section.entries if entry.ranked_ms is not None]
    low, high = min(fastest, default=1.0), max(fastest, default=1.0)
    yield table(IMPLEMENTATIONS, [_implementation(section, name, low, high) for name in section.implementations])
    yield Text(_legend(section, low, high) if fastest else "")
    if section.rate is None:
        yield Text(f"device's rates: {NO_RATES}\n")
    yield from _flagged(section)


def _efficiency(rows: list[tuple[Entry, Efficiency]]) -> Iterator[RenderableType]:
    """What was held against exact attention; nothing of most suites."""
    if not rows:
        return
    yield table(EFFICIENCY, [_held(entry.row, beside) for entry, beside in rows])
    dense = ", ".join(f"{n:,}" for n in sorted({beside.dense_len for _, beside in rows if beside.dense_len}))
    yield Text(
        f"\nof dense: share of the rate of exact attention at {dense or 'no'} tokens, medians of the same rounds"
        "\nvs exact: times faster than exact attention of the same length; * measured apart; ~ predicted\n"
    )


def _held(row: Row, beside: Efficiency) -> list[str]:
    return [
        row.implementation,
        f"{row.seq_len:,}",
        milliseconds(beside.raced_ms or row.time_ms),
        rate(beside.raced_tflops or row.tflops),
        percent(beside.dense_share),
        MARKS[beside.exact_basis] + times(beside.times_faster),
        mebibytes(row.peak_memory_mib),
    ]


def _winner(section: Section, cell: Cell) -> list[str]:
    names = [family(cell.pattern, cell.seq_len), f"{cell.seq_len:,}"]
    winner = cell.winner
    if winner is None or winner.ranked_ms is None:
        return [*names, winner.status_text if winner else f"none ({statuses(cell.entries)})", *[MISSING] * 3]
    row = winner.row
    figures = [milliseconds(row.time_ms), mebibytes(row.peak_memory_mib)]
    return [*names, row.config, *figures, times(section.speed_up(winner))]


def _implementation(section: Section, name: str, low: float, high: float) -> list[str]:
    shown = dict(section.by_length(name))
    times_ms = [entry.ranked_ms if (entry := shown.get(n)) else None for n in section.grid]
    ranked = [entry.row for entry in shown.values() if entry and entry.ranked_ms is not None]
    figures = [MISSING] * 3
    if ranked:
        figures = [f"{ranked[-1].seq_len:,}", milliseconds(ranked[-1].time_ms), mebibytes(ranked[-1].peak_memory_mib)]
    return [name, f"{len(ranked)}/{len(shown)}", *figures, sparkline(times_ms, low, high)]


def _legend(section: Section, low: float, high: float) -> str:
    first, *others = (f"{n:,}" for n in section.grid)
    lengths = f"lengths {first} to {others[-1]}" if others else f"length {first}"
    scale = f"from {BARS[0]} {milliseconds(low)} ms to {BARS[-1]} {milliseconds(high)} ms, log scale"
    return f"\ntime: fastest median at {lengths},\n{scale}; {GAP} none\n"


def _flagged(section: Section) -> Iterator[RenderableType]:
    """What is not believed, and why."""
    if section.flagged:
        yield Text("Flagged, and not ranked:", style="bold")
    for row in (entry.row for entry in section.flagged):
        yield Padding(Text(f"{row.implementation} at {row.seq_len:,}, {row.config}: {row.flag}"), (0, 0, 0, 2))
    if section.flagged:
        yield Text()
