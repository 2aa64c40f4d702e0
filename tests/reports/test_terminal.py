"""The terminal summary, rendered without colour."""

from rich.console import Console

from autotune.db.records import Status
from autotune.reports.terminal import terminal_summary
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense


def rendered(source):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(terminal_summary(source))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def test_whole_text(full_book, check):
    check("terminal.txt", rendered(full_book.source()))


def test_whole_text_of_a_suite(suite_source, check):
    check("suite.txt", rendered(suite_source))


def test_empty_database(book):
    assert "autotune tune" in rendered(book.source())


def test_choice_that_failed_later_shows_no_time(book):
    config = Config.of("sdpa", backend="[bold]flash")
    book.choose(book.add(Dense(), config, Status.OK, 123.0))
    book.add(Dense(), config, Status.CRASHED, signal=4)
    text = rendered(book.source())
    assert "crashed (signal 4)" in text
    assert "123" not in text
