"""Pieces of what is shown in a terminal: text from outside, and tables for 80 columns."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    """A table; a column whose name starts with ``>`` is aligned to the right and never broken, others fold."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        right = name.startswith(">")
        shown.add_column(name.removeprefix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown
