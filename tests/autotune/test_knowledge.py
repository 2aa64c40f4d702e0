"""Whatever a database holds, attention runs: what this version cannot read is left out, damage is one warning."""

import json
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, LocalWindow, Problem, current
from autotune.db.store import Store
from autotune.knowledge import AutotuneWarning

from .records import fill, ok

DENSE, WINDOW = Dense(), LocalWindow(0.9)
RING = Config.of("ring", chunk_size=20, compile="off", query_block=0)
PROBLEM = Problem.self_attention(64, heads=2, head_dim=8)


@pytest.fixture
def database(tmp_path, monkeypatch):
    """Two cells: ring attention was the fastest, and a window."""
    path = tmp_path / "t.db"
    window = Config.of("block_sparse", compile="off")
    fill(path, [(PROBLEM, DENSE, RING, ok(1.0)), (PROBLEM, WINDOW, window, ok(1.0))])
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    current.reload()
    yield path
    current.reload()


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def attend():
    """The source of the decision, and the warnings of two calls that come out right."""
    query, key, value = (torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [autotune.attention(query, key, value) for _ in range(2)]
        source = autotune.explain(query, key, value).source
    for out in outputs:
        assert torch.allclose(out, scaled_dot_product_attention(query, key, value), atol=1e-5)
    return source, [one for one in caught if one.category is AutotuneWarning]


@pytest.mark.parametrize(
    "key", ['{"kind":"from_the_future","depth":3}', '{"kind":"local_window","sparsity":0.9,"depth":3}'], ids=str
)
def test_what_a_newer_version_knows_of_patterns_is_left_out(database, key):
    change(database, "UPDATE patterns SET key = ?, kind = ? WHERE kind = 'local_window'", key, json.loads(key)["kind"])
    assert attend() == ("measured", [])
    with Store.open(database, read_only=True) as store:
        assert [record.pattern for record in store.records()] == [DENSE]


def test_a_strategy_of_a_newer_version_is_left_out(database):
    fill(database, [(PROBLEM, DENSE, Config.of("from_the_future", depth=3), ok(0.1))])
    assert attend() == ("measured", [])


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE measurements SET status = ?", "splendid"),
        ("UPDATE measurements SET times_ms = ?", "[1.0, "),
        ("UPDATE measurements SET times_ms = ?", "[[1.0]]"),
        ("UPDATE measurements SET times_ms = ?", "7"),
        ("UPDATE configs SET params = ?", "[1, 2]"),
        ("UPDATE configs SET params = ?", '{"chunk_size": [20]}'),
        ("UPDATE problems SET heads = ?", "many"),
        ("UPDATE measurements SET created_at = ?", "yesterday"),
    ],
)
def test_damage_is_one_warning(database, statement, value):
    change(database, statement, value)
    source, (warning,) = attend()
    assert source == "default"
    assert "\n" not in str(warning.message)
    assert "what is tuned is not used" in str(warning.message)


def test_a_warning_names_the_line_that_calls(database):
    database.unlink()
    _, (warning,) = attend()
    assert Path(warning.filename) == Path(__file__)


def test_what_a_caller_catches_has_a_name_in_the_package():
    assert autotune.AutotuneWarning is AutotuneWarning
    assert issubclass(autotune.NothingFitsError, autotune.AutotuneError)
    assert {"AutotuneWarning", "NothingFitsError"} <= set(autotune.__all__)
