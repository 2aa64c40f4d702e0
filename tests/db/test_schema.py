"""The migrated schema is the models' schema, and other schemas are left alone."""

import sqlite3
from contextlib import closing
from importlib.resources import files

import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateTable

from autotune.db import schema
from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.store import Store
from autotune.db.tables import Base


def test_migrations_arrive_at_the_models(store):
    engine = create_engine(store.connection_url)
    with engine.connect() as connection:
        options = {
            "version_table": schema.VERSION_TABLE,
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or name in Base.metadata.tables,
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_listed_revisions_are_those_on_disk():
    config = Config()
    config.set_main_option("script_location", "autotune.db:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(schema.REVISIONS)
    assert (files("autotune.db.migrations") / "env.py").is_file()


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=["postgresql", "mysql"])
def test_other_databases_can_express_every_table(dialect):
    for table in Base.metadata.tables.values():
        assert str(CreateTable(table).compile(dialect=dialect))


def test_optuna_lives_in_the_same_file(store, path):
    storage = optuna.storages.RDBStorage(store.connection_url)
    optuna.create_study(study_name="cell", storage=storage)
    storage.engine.dispose()
    with Store.open(path) as again:
        assert again.records() == []
    assert not set(Base.metadata.tables) & set(optuna.storages._rdb.models.BaseModel.metadata.tables)


def set_revision(path, revision):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = ?", (revision,))


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused(path, read_only):
    Store.open(path).close()
    set_revision(path, "9999")
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        Store.open(path, read_only=read_only)
    assert str(caught.value) == (
        f"database {path} has schema revision 9999, newer than this autotune knows ({schema.REVISIONS[-1]}); "
        "upgrade autotune, or name another database with --db"
    )
    assert path.read_bytes() == before


def test_another_programs_file_is_left_as_it_is(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"holds tables of another program \(bookmarks\), and was left as it is"):
            Store.open(path, read_only=read_only)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database_but_is_not_read(path):
    path.touch()
    with pytest.raises(StoreNotFoundError, match=r"is empty; run `autotune tune` first"):
        Store.open(path, read_only=True)
    with Store.open(path) as store:
        assert store.records() == []
