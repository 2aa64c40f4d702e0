"""A machine that is alike for all tests here: one thread, and workers that can import the planted strategies."""

import os
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from autotune.db.store import Store
from autotune.studies import open_storage

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.append(HERE)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under a shell's `&`: children would not notice Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Small problems run faster, and leave the other cores alone, on one thread; workers inherit both variables."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")])))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def _migrated_database(tmp_path_factory):
    """Migrations and Optuna's tables, once for all tests."""
    path = tmp_path_factory.mktemp("migrated")
    with Store.open(path / "original.db") as store:
        open_storage(store)
    original, copy = sqlite3.connect(path / "original.db"), sqlite3.connect(path / "t.db")
    with closing(original), closing(copy):
        original.backup(copy)
    return path / "t.db"


@pytest.fixture
def empty_database(_migrated_database, tmp_path):
    """The path of a database file of one's own, in a folder of its own."""
    (tmp_path / "db").mkdir()
    return Path(shutil.copy(_migrated_database, tmp_path / "db" / "t.db"))


@pytest.fixture
def known_rates(monkeypatch):
    """What the device reaches is told to a run, not measured: seconds on one thread, which other tests spend."""
    from stand_in import RATES  # in this folder, which is on the path only now

    monkeypatch.setattr("autotune.worker.Worker.rates", lambda worker, task: RATES)
