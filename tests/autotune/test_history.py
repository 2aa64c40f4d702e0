"""What is known about a cell, and what has to be measured again."""

import signal

import planted
import pytest
import torch

from autotune.cells import Cell
from autotune.db.records import Measurement, Status
from autotune.db.store import Store
from autotune.environment import environment_of
from autotune.history import History
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

CPU = torch.device("cpu")
CELL = Cell(CPU, Problem.self_attention(64), Dense())
CONFIG = planted.config_of(planted.CORRECT)


@pytest.mark.parametrize(
    ("status", "number", "known"),
    [
        (Status.OK, None, True),
        (Status.CRASHED, signal.SIGSEGV, True),
        (Status.CRASHED, signal.SIGKILL, False),
        (Status.OOM, signal.SIGKILL, True),
        (Status.SKIPPED, None, False),
    ],
)
def test_what_somebody_killed_is_measured_again_and_what_the_kernel_killed_is_not(
    empty_database, status, number, known
):
    with Store.open(empty_database) as store:
        history = History(store, store.begin_run("by hand"), CELL, environment_of(CPU))
        history.add(CONFIG, Measurement(status=status, signal=number))
    assert (CONFIG in history.conclusive()) == known
