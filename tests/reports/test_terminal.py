"""The terminal summary, rendered without colour."""

from rich.console import Console

from autotune.db.records import Status
from autotune.reports.terminal import terminal_summary
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense


def rendered(records, choices):
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(terminal_summary(records, choices))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def test_whole_text(full_book, check):
    check("terminal.txt", rendered(full_book.records, full_book.choices))


def test_empty_database():
    assert "autotune tune" in rendered([], [])


def test_choice_that_failed_later_shows_no_time(book):
    config = Config.of("sdpa", backend="[bold]flash")
    book.choose(book.add(Dense(), config, Status.OK, 123.0))
    book.add(Dense(), config, Status.CRASHED, signal=4)
    text = rendered(book.records, book.choices)
    assert "crashed (signal 4)" in text
    assert "123" not in text
