"""What a person sees while tuning runs."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from autotune.cell_tuner import CellResult
from autotune.cells import Cell
from autotune.db.records import Status
from autotune.progress import Progress
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

from .records import failed, ok

CELL = Cell(torch.device("cpu"), Problem.self_attention(4096), Dense())
AUTO = Config.of("sdpa", backend="auto")
RING = Config.of("ring", chunk_size=1024)


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def progress(screen):
    """Progress on something that is no terminal, and narrow."""
    with Progress(Console(file=screen, width=40)) as progress:
        yield progress


def test_each_cell_and_candidate_is_one_line_whatever_the_width(progress, screen):
    progress.cell_started(CELL, 2, 5, 7)
    progress.candidate_started(AUTO)
    progress.candidate_finished(AUTO, ok(12.5, 3.0))
    progress.cell_finished(CellResult(CELL, {AUTO: ok(12.5, 3.0)}, AUTO, 1))
    first, candidate, best = screen.getvalue().splitlines()
    assert first == "[2/5] dense, 4,096 tokens on cpu: 7 configurations to measure"
    assert candidate.split() == [*AUTO.text.split(), "12.5", "ms", "3.00", "MiB", "error", "1.0e-07"]
    assert best.strip() == f"best: {AUTO.text}, 12.5 ms"


def test_a_reference_is_announced_by_its_length(progress, screen):
    progress.reference_started(CELL)
    assert screen.getvalue() == "reference: 4,096 tokens, forward\n"


def test_a_cell_that_is_known_says_so(progress, screen):
    progress.cell_started(CELL, 1, 1, 0)
    assert screen.getvalue() == "[1/1] dense, 4,096 tokens on cpu: nothing new to measure\n"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_failure_is_shown_with_status_and_reason(progress, screen, status):
    progress.candidate_finished(RING, failed(status))
    assert f"{status}: planted {status}" in screen.getvalue()


def test_a_reason_of_many_lines_is_cut_to_the_first(progress, screen):
    measurement = type(failed(Status.CRASHED))(status=Status.CRASHED, reason="x" * 300 + "\nsecond line")
    progress.candidate_finished(RING, measurement)
    (line,) = screen.getvalue().splitlines()
    assert line.endswith("crashed: " + "x" * 120)


def test_a_cell_in_which_nothing_ran_says_where_to_look(progress, screen):
    progress.cell_finished(CellResult(CELL, {RING: failed(Status.OOM)}, None, 1))
    assert "nothing ran" in screen.getvalue()
    assert "autotune report" in screen.getvalue()


def test_brackets_in_a_reason_are_text_and_not_markup(progress, screen):
    measurement = type(failed(Status.CRASHED))(status=Status.CRASHED, reason="index [bold] out of [/range]")
    progress.candidate_finished(RING, measurement)
    assert "index [bold] out of [/range]" in screen.getvalue()


def test_the_live_line_names_what_runs_the_best_and_what_is_left(screen):
    with Progress(Console(file=screen, force_terminal=True, width=200)) as progress:
        progress.cell_started(CELL, 1, 3, 4)
        progress.candidate_started(AUTO)
        assert "best: none yet | time left unknown, 2 cells after it" in progress._status_line().plain
        progress.candidate_finished(AUTO, ok(5.0))
        progress.candidate_started(RING)
        line = progress._status_line().plain
        assert f"running {RING.text} for 0 s | best: {AUTO.text} 5 ms | about 0 s left here" in line
        progress.candidate_finished(RING, ok(7.0))
        progress.candidate_started(RING)
        assert f"best: {AUTO.text} 5 ms" in progress._status_line().plain
        progress.cell_started(CELL, 2, 3, 4)
        progress.candidate_started(AUTO)
        assert "best: none yet" in progress._status_line().plain


def test_a_race_that_failed_is_told_and_all_finals_count_for_the_time(progress, screen):
    progress.cell_started(CELL, 1, 1, 2)
    progress.final_started(8)
    since = progress._final_since
    progress.final_failed(8)
    progress.final_started(4)
    assert "final: the race of 8 failed; who runs by itself is timed by itself" in screen.getvalue()
    assert progress._final_since == since


def test_a_final_that_is_left_out_is_told_with_what_would_give_it(progress, screen):
    progress.cell_started(CELL, 1, 1, 2)
    progress.final_left_out(12.34, -0.5)
    line = "no final: timing the fastest two in turn takes 12.3 s, and there are 0.0 s for it; a larger --effort or"
    assert line in screen.getvalue()


def test_nothing_live_is_drawn_where_there_is_no_terminal(progress, screen):
    progress.candidate_started(AUTO)
    assert screen.getvalue() == ""


def interrupted(console):
    with Progress(console) as progress:
        progress.candidate_started(AUTO)
        raise KeyboardInterrupt


def test_the_display_ends_with_an_interruption():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with pytest.raises(KeyboardInterrupt):
        interrupted(console)
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")  # the cursor is back
    with Progress(console):  # a display that was left running would refuse another
        pass


def test_where_the_time_went_is_told_once_by_phase_and_the_final_counts_for_itself(progress, screen):
    measured = replace(ok(5.0), compile_s=2.0, gate_s=0.5, timing_s=1.0)
    progress.cell_started(CELL, 1, 1, 2)
    progress.candidate_finished(AUTO, measured)
    progress.candidate_finished(RING, measured)
    progress.final_started(2)
    progress.candidate_finished(AUTO, measured)
    progress.cell_finished(CellResult(CELL, {AUTO: measured}, AUTO, 1))
    assert "spent: 4.0 s compiling, 1.0 s checking, 2.0 s timing, 0.0 s in the final" in screen.getvalue()
    progress.cell_started(CELL, 1, 1, 0)
    progress.cell_finished(CellResult(CELL, {AUTO: measured}, AUTO, 0))
    assert screen.getvalue().count("spent:") == 1
