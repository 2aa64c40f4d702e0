"""The table of rows held against exact attention, for Markdown and the page."""

from collections.abc import Iterable

from autotune.db.records import Record
from autotune.reports.efficiency import Efficiency, held
from autotune.reports.figures import MISSING, mebibytes, milliseconds, percent, rate, times
from autotune.reports.html_tables import Table, Value
from autotune.reports.markdown_text import code, table
from autotune.reports.rows import Entry
from autotune.reports.sections import Section

TITLE = "Held against exact attention"
COLUMNS = ["implementation", ">length", ">median ms", ">TFLOP/s", ">share of dense's rate", ">in single rounds"]
COLUMNS += [">rounds", ">dense at", ">its TFLOP/s", ">exact ms", "exact measured in", ">times faster", ">peak MiB"]
COLUMNS += ["chosen by search", "configuration"]
CAPTION = (
    "Rates as a share of exact attention's, timed in the same rounds, and how many times faster a row is than exact "
    "attention of its own length."
)


def efficiency_table(section: Section, records: Iterable[Record]) -> Table | None:
    """One line for each row at the lengths that were raced; None where none was."""
    lines = [_line(entry, beside) for entry, beside in held(section, records)]
    return Table(name="efficiency", title=TITLE, caption=CAPTION, columns=COLUMNS, lines=lines) if lines else None


def efficiency_markdown(section: Section, records: Iterable[Record]) -> str:
    """The same in Markdown."""
    found = efficiency_table(section, records)
    if found is None:
        return "No row has been timed in turn with exact attention."
    return table(
        COLUMNS,
        [[code(name.text), *(each.text for each in rest), code(config.text)] for name, *rest, config in found.lines],
    )


def _line(entry: Entry, beside: Efficiency) -> list[Value]:
    row, low, high = entry.row, beside.dense_share_min, beside.dense_share_max
    time_ms, tflops = beside.raced_ms or row.time_ms, beside.raced_tflops or row.tflops
    return [
        Value(row.implementation),
        Value(f"{row.seq_len:,}", row.seq_len),
        Value(milliseconds(time_ms), time_ms),
        Value(rate(tflops), tflops),
        Value(percent(beside.dense_share), beside.dense_share),
        Value(MISSING if low is None else f"{percent(low)} - {percent(high)}", low),
        Value(str(beside.rounds or MISSING), beside.rounds),
        Value(MISSING if beside.dense_len is None else f"{beside.dense_len:,}", beside.dense_len),
        Value(rate(beside.dense_tflops), beside.dense_tflops),
        Value(milliseconds(beside.exact_ms), beside.exact_ms),
        Value(beside.exact_basis or MISSING),
        Value(times(beside.times_faster), beside.times_faster),
        Value(mebibytes(row.peak_memory_mib), row.peak_memory_mib),
        Value("yes" if beside.chosen else "no"),
        Value(row.config),
    ]
