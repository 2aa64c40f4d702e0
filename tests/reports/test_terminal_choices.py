"""The tuned cells in a terminal of 80 columns."""

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from rich.console import Console

from autotune.reports.terminal_choices import terminal_choices

from .conftest import CPU, GENERATED, GPU


def rendered(choices, now=GENERATED, times_ms=MappingProxyType({}), here=(GPU,)):
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(terminal_choices(choices, times_ms, here, now))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def test_whole_text(full_book, check):
    dense, _, short, long = full_book.choices
    old = replace(dense, environment=replace(GPU, torch_version="2.12.1", driver=""))
    times_ms = {record.id: record.measurement.time_ms for record in full_book.records}
    check("choices.txt", rendered([long, short, replace(dense, environment=CPU), dense, old], times_ms=times_ms))


def test_the_processor_of_a_machine_with_a_gpu_is_no_other_device(full_book):
    dense = full_book.choices[0]
    cells = [replace(dense, environment=environment) for environment in (CPU, replace(CPU, torch_version="2.12"), GPU)]
    text = rendered(cells, here=(GPU, CPU))
    assert text.count("current software") == 2
    assert text.count("stale: torch 2.12, now ") == 1
    assert "another device" not in text
    assert rendered(cells, here=(GPU,)).count("another device") == 2


def test_age(full_book):
    later = GENERATED + timedelta(days=5)
    assert "5 d" in rendered(full_book.choices, later)


def test_nothing_tuned():
    assert "autotune tune" in rendered([])
