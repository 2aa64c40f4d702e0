"""The report in a terminal: what won each cell."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autotune.db.records import Choice, Record
from autotune.reports.figures import MISSING, mebibytes, milliseconds, times
from autotune.reports.implementations import family
from autotune.reports.sections import EMPTY, Cell, Section, sections, statuses


def terminal_summary(records: Sequence[Record], choices: Sequence[Choice]) -> RenderableType:
    """One table for each environment and setting, with the winner of every cell."""
    if not records:
        return Text(EMPTY)
    return Group(*(_table(section) for section in sections(records, choices)))


def _table(section: Section) -> Table:
    title = Text(f"{section.environment.device_name}: {section.setting.text}")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("pattern", no_wrap=True)
    table.add_column("length", justify="right", no_wrap=True)
    table.add_column("configuration", overflow="fold")
    for name in ("ms", "MiB", "vs dense"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in section.cells:
        table.add_row(*(Text(text) for text in _cells(section, cell)))
    return table


def _cells(section: Section, cell: Cell) -> list[str]:
    names = [family(cell.pattern, cell.seq_len), f"{cell.seq_len:,}"]
    winner = cell.winner
    if winner is None or winner.ranked_ms is None:
        return [*names, winner.status_text if winner else f"none ({statuses(cell.entries)})", *[MISSING] * 3]
    row = winner.row
    figures = [milliseconds(row.time_ms), mebibytes(row.peak_memory_mib)]
    return [*names, row.config, *figures, times(section.speed_up(winner))]
