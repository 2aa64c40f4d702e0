"""The tables of the page: text to read, and the number to sort by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.db.records import Status
from autotune.reports.choices import CAPTION, Alternative, alternatives
from autotune.reports.figures import MISSING, error, finite, mebibytes, milliseconds, percent, rate, spread, times
from autotune.reports.implementations import family
from autotune.reports.published import Published
from autotune.reports.rows import Entry, Row
from autotune.reports.sections import NOT_RUN, Cell, Section

ROWS = ["implementation", ">length", "function", ">density", "status", ">median ms", ">min - max (spread)"]
ROWS += [">repeats", ">peak MiB", ">predicted MiB", ">rel error", ">TFLOP/s", ">of matmul rate", ">over dense"]
ROWS += ["configuration", "flag or reason"]
CHOSEN = ["function", ">length", "chosen configuration", ">median ms", ">peak MiB", ">margin over runner-up"]
CHOSEN += [">candidates tried", ">over dense"]
CHOICES = ["function", ">length", "choice", "chosen", "instead", ">time over chosen", "measured in"]
PUBLISHED = ["implementation", ">length", "published", ">published ms", ">published MiB", "ours", ">our ms"]
PUBLISHED += [">our MiB", ">our rel error", ">published ms / our ms"]


@dataclass(frozen=True, slots=True)
class Value:
    """What one cell of a table says.

    Args:
        text: to read.
        order: to sort by, where that is a number; a cell without one sorts last.
        kind: how it is marked: ``flagged``, ``failed``, ``best``, ``reason`` or not at all.
    """

    text: str
    order: float | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; a column whose name starts with ``>`` holds numbers."""

    name: str  # stable and unique within a section
    title: str
    caption: str
    columns: Sequence[str]
    lines: Sequence[Sequence[Value]]


def time_matrix(section: Section) -> Table:
    """Every implementation at every length, by time."""
    return _matrix(section, "time-matrix", "Median time in ms", lambda row: row.time_ms, milliseconds)


def memory_matrix(section: Section) -> Table:
    """Every implementation at every length, by memory."""
    title = "Peak memory above the inputs in MiB"
    return _matrix(section, "memory-matrix", title, lambda row: row.peak_memory_mib, mebibytes)


def chosen(section: Section) -> Table | None:
    """What the searches settled on; None where nothing was searched."""
    lines = [_chosen(section, cell) for cell in section.cells if cell.choice]
    caption = "The configuration that runs from now on, for each function and length that was searched."
    return Table(name="chosen", title="Chosen", caption=caption, columns=CHOSEN, lines=lines) if lines else None


def choices(section: Section) -> Table | None:
    """What other values of each choice would have cost; None where no search ranked any."""
    lines = [_alternative(each) for each in alternatives(section)]
    return Table(name="choices", title="Choices", caption=CAPTION, columns=CHOICES, lines=lines) if lines else None


def all_rows(section: Section) -> Table:
    """Everything known of every row."""
    lines = [_row(section, entry) for entry in section.entries]
    caption = (
        "Every configuration at every length, failures with their reason; over dense is the speed relative to the "
    )
    caption += "fastest exact attention of the same length. A click on a heading sorts."
    return Table(name="rows", title="All rows", caption=caption, columns=ROWS, lines=lines)


def beside(section: Section, published: Sequence[Published]) -> Table | None:
    """Each published figure with our row of the same name and length; None where nothing was published."""
    ours = {(name, n): entry for name in section.implementations for n, entry in section.by_length(name)}
    lines = [_published(each, ours.get((each.implementation, each.seq_len))) for each in published]
    caption = "The published figures are from another device, and were not verified by us."
    return (
        Table(name="beside", title="Published, figure by figure", caption=caption, columns=PUBLISHED, lines=lines)
        if lines
        else None
    )


def _matrix(
    section: Section, name: str, title: str, value: Callable[[Row], float | None], text: Callable[[float | None], str]
) -> Table:
    groups = {name: dict(section.by_length(name)) for name in section.implementations}
    believed = {n: [e.row for g in groups.values() if (e := g.get(n)) and e.ranked_ms] for n in section.grid}
    least = {n: min((f for row in rows if (f := value(row)) is not None), default=None) for n, rows in believed.items()}

    def cell(n: int, entry: Entry | None) -> Value:
        if entry is None:
            return Value(section.absent)
        if entry.ranked_ms is None:
            return Value(entry.status_text, None, _kind(entry))
        figure = value(entry.row)
        return Value(text(figure), figure, "best" if figure == least[n] else "")

    lines = [[Value(name), *(cell(n, group.get(n)) for n in section.grid)] for name, group in groups.items()]
    caption = "The fastest configuration of each implementation at each length; bold is the least of its column."
    columns = ("implementation", *(f">{n:,}" for n in section.grid))
    return Table(name=name, title=title, caption=caption, columns=columns, lines=lines)


def _chosen(section: Section, cell: Cell) -> list[Value]:
    assert cell.choice is not None
    winner, margin = cell.winner, finite(cell.choice.margin)
    believed = winner is not None and winner.ranked_ms is not None
    gain = section.speed_up(winner)
    return [
        Value(family(cell.pattern, cell.seq_len)),
        Value(f"{cell.seq_len:,}", cell.seq_len),
        Value(cell.choice.config.text if believed or not winner else f"{winner.row.config} (now {winner.status_text})"),
        *_measured(winner if believed else None),
        Value("tie" if margin is not None and margin <= 0 else percent(margin), margin),
        Value(f"{cell.choice.candidates:,}", cell.choice.candidates),
        Value(times(gain), gain),
    ]


def _alternative(each: Alternative) -> list[Value]:
    return [
        Value(family(each.cell.pattern, each.cell.seq_len)),
        Value(f"{each.cell.seq_len:,}", each.cell.seq_len),
        Value(each.choice),
        Value(str(each.chosen)),
        Value(str(each.value)),
        Value(each.text, each.ratio),
        Value(each.measured_in),
    ]


def _row(section: Section, entry: Entry) -> list[Value]:
    row, gain = entry.row, section.speed_up(entry)
    return [
        Value(row.implementation),
        Value(f"{row.seq_len:,}", row.seq_len),
        Value(family(entry.record.pattern, row.seq_len)),
        Value(percent(row.density), row.density),
        Value(entry.status_text, None, _kind(entry)),
        Value(milliseconds(row.time_ms), row.time_ms),
        Value(spread(row.time_min_ms, row.time_max_ms, row.time_ms) if row.repeats > 1 else MISSING, row.time_min_ms),
        Value(str(row.repeats), row.repeats),
        Value(mebibytes(row.peak_memory_mib), row.peak_memory_mib),
        Value(mebibytes(row.predicted_memory_mib), row.predicted_memory_mib),
        Value(error(row.rel_error), row.rel_error),
        Value(rate(row.tflops), row.tflops),
        Value(percent(row.matmul_share), row.matmul_share),
        Value(times(gain), gain),
        Value(row.config if entry.measured == 1 else f"{row.config} (measured {entry.measured} times)"),
        Value(row.flag or row.reason, None, "reason"),
    ]


def _published(published: Published, ours: Entry | None) -> list[Value]:
    time_ms, memory = finite(published.time_ms), finite(published.peak_memory_mib)
    ratio = time_ms / ours.ranked_ms if time_ms and ours and ours.ranked_ms else None
    return [
        Value(published.implementation),
        Value(f"{published.seq_len:,}", published.seq_len),
        Value(f"{published.status} ({published.failure})" if published.failure else published.status),
        Value(milliseconds(time_ms), time_ms),
        Value(mebibytes(memory), memory),
        Value(ours.status_text if ours else NOT_RUN, None, _kind(ours) if ours else ""),
        *_measured(ours),
        Value(error(ours.row.rel_error if ours else None), ours.row.rel_error if ours else None),
        Value(times(ratio), ratio),
    ]


def _measured(entry: Entry | None) -> list[Value]:
    time_ms, memory = (entry.row.time_ms, entry.row.peak_memory_mib) if entry else (None, None)
    return [Value(milliseconds(time_ms), time_ms), Value(mebibytes(memory), memory)]


def _kind(entry: Entry) -> str:
    if entry.row.flag:
        return "flagged"
    return "" if entry.row.status == Status.OK else "failed"
