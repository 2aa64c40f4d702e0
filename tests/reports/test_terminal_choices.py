"""The tuned cells in a terminal of 80 columns."""

from dataclasses import replace
from datetime import timedelta

from rich.console import Console

from autotune.reports.terminal_choices import terminal_choices

from .conftest import CPU, GENERATED, GPU


def rendered(choices, now=GENERATED):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(terminal_choices(choices, GPU, now))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def test_whole_text(full_book, check):
    dense, _, short, long = full_book.choices
    check("choices.txt", rendered([long, short, replace(dense, environment=CPU), dense]))


def test_age(full_book):
    later = GENERATED + timedelta(days=5)
    assert "5 d" in rendered(full_book.choices, later)


def test_nothing_tuned():
    assert "autotune tune" in rendered([])
