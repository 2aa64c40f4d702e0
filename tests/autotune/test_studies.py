"""Optuna's studies beside the measurements: what they cannot do is the database's failure, in one line."""

import sqlite3
import threading
from contextlib import closing
from json import JSONDecodeError

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from autotune.db.errors import StoreError
from autotune.db.store import Store
from autotune.strategies.errors import ConfigError
from autotune.studies import open_storage, storage_errors


@pytest.fixture
def store(empty_database):
    """A database with a study of one trial."""
    with Store.open(empty_database) as store:
        study = optuna.create_study(storage=open_storage(store), study_name="cell")
        study.ask().set_user_attr("config", "sdpa()")
        yield store


def change(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def trials(store):
    return optuna.load_study(study_name="cell", storage=open_storage(store)).trials


def test_studies_live_in_the_stores_own_database(store, empty_database):
    (trial,) = trials(store)
    assert trial.user_attrs == {"config": "sdpa()"}
    with closing(sqlite3.connect(empty_database)) as connection:
        assert connection.execute("SELECT study_name FROM studies").fetchall() == [("cell",)]


def test_tables_of_another_optuna_are_named_with_its_own_advice(store, empty_database):
    change(empty_database, "UPDATE alembic_version SET version_num = 'v9.9.9'")
    with pytest.raises(StoreError, match="holds studies that cannot be used: The runtime optuna version") as caught:
        open_storage(store)
    assert str(caught.value).startswith(f"database {empty_database} ")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_tables_are_made_by_one_process_at_a_time(empty_database):
    with Store.open(empty_database) as store, Store.open(empty_database) as other:
        opened = threading.Thread(target=open_storage, args=(store,))
        with other.claim("the tables of studies", wait=True):
            opened.start()
            opened.join(timeout=0.3)
            assert opened.is_alive()
        opened.join(timeout=30)
        assert not opened.is_alive()


def test_a_damaged_study_is_a_damaged_row(store, empty_database):
    change(empty_database, "UPDATE trial_user_attributes SET value_json = '{'")
    with (
        pytest.raises(StoreError, match=r"holds a row that cannot be read \(JSONDecodeError") as caught,
        storage_errors(store),
    ):
        trials(store)
    assert isinstance(caught.value.__cause__, JSONDecodeError)


def test_studies_that_cannot_be_written_are_the_databases_failure(store, empty_database):
    """Optuna's own error has a traceback of two libraries."""
    study = optuna.load_study(study_name="cell", storage=open_storage(store))
    change(empty_database, "DROP TABLE trials", "CREATE VIEW trials AS SELECT 1 AS trial_id")
    with pytest.raises(StoreError, match=r"does not answer as it should \(") as caught, storage_errors(store):
        study.ask()
    assert isinstance(caught.value.__cause__, OperationalError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [StorageInternalError("of no driver"), ConfigError("ours"), KeyboardInterrupt()])
def test_what_is_not_the_databases_failure_passes_through(store, error):
    with pytest.raises(type(error)) as caught, storage_errors(store):
        raise error
    assert caught.value is error
