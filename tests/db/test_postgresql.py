"""The store on a real PostgreSQL server: the same as on a SQLite file, for several processes at once."""

import multiprocessing
import os
import signal
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, make_url

from autotune.db import schema
from autotune.db.errors import StoreError, StoreNotFoundError
from autotune.db.records import Measurement, Status
from autotune.db.results_writer import results_text
from autotune.db.store import Store
from autotune.db.tables import Base
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

pytestmark = pytest.mark.slow


@pytest.fixture
def url(new_postgresql):
    return new_postgresql()


@pytest.fixture
def server(url):
    with Store.open(url) as store:
        yield store


def test_migrations_arrive_at_the_models(server, url):
    engine = create_engine(url)
    with engine.connect() as connection:
        options = {"version_table": schema.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_an_empty_database_is_not_read(url):
    with pytest.raises(StoreNotFoundError, match="is empty; run `autotune tune` first"):
        Store.open(url, read_only=True)


def test_results_go_there_and_back_unchanged(server, store, add, add_rate, environment):
    problem, pattern, config = Problem.self_attention(8192), Dilated.longnet(8192), Config.of("ring", chunk_size=64)
    number = add(store, problem=problem, pattern=pattern, config=config)
    wrong = Measurement(status=Status.WRONG_RESULT, reason="'\n∞", rel_error=float("inf"), max_abs_error=float("nan"))
    add(store, measurement=wrong)
    store.decide(environment, problem, pattern, config, number, 1 / 3, 1)
    add_rate(store)
    server.merge(store.results())
    assert server.merge(store.results()).known == 4
    assert results_text(server.results()) == results_text(store.results())
    assert [choice.config for choice in server.choices(problem=problem)] == [config]


def test_processes_create_and_fill_one_new_database_together(url, add, in_processes):
    def measure(number):
        with Store.open(url) as store:
            run_id = store.begin_run(f"tuner {number}")
            for step in range(10):
                add(store, run_id=run_id, problem=Problem.self_attention(1 + step))

    assert in_processes(measure, count=4) == [0, 0, 0, 0]
    with Store.open(url, read_only=True) as store:
        records = store.records()
    assert len(records) == 40
    assert len({record.problem for record in records}) == 10


def test_processes_merge_the_same_while_others_measure(url, store, add, in_processes):
    for step in range(5):
        add(store, problem=Problem.self_attention(256 << step))
    results = store.results()
    Store.open(url).close()

    def work(number):
        with Store.open(url) as server:
            if number % 2:
                server.merge(results)
            else:
                for step in range(5):
                    add(server, problem=Problem.self_attention(256 << step), config=Config.of("sdpa", step=number))

    assert in_processes(work, count=4) == [0, 0, 0, 0]
    with Store.open(url) as server:
        assert len(server.records()) == 15


def test_a_claim_is_one_processes_and_ends_with_it(url):
    check_claims(url)


def test_a_claim_on_a_file_is_one_processes_and_ends_with_it(path):
    check_claims(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def check_claims(database):
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def hold():
        with Store.open(database) as store, store.claim("cell 1") as ours:
            assert ours
            ready.set()
            time.sleep(600)

    Store.open(database).close()
    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(60)
    with Store.open(database) as store:
        with store.claim("cell 1") as first, store.claim("cell 2") as second:
            assert (first, second) == (False, True)
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        with store.claim("cell 1", wait=True) as first, store.claim("cell 2") as second:
            assert (first, second) == (True, True)
        with pytest.raises(ZeroDivisionError), store.claim("cell 1", wait=True):
            raise ZeroDivisionError
        with store.claim("cell 1", wait=True) as again:
            assert again


def test_claims_are_exclusive_under_contention(url, path, in_processes):
    for database in (url, path):
        Store.open(database).close()
        mark = path.with_name("mark")

        def work(_, database=database, mark=mark):
            with Store.open(database) as store:
                for _ in range(20):
                    with store.claim("cell", wait=True):
                        mark.touch(exist_ok=False)  # fails where two are in here
                        mark.unlink()

        assert in_processes(work, count=4) == [0, 0, 0, 0]


def test_a_server_or_database_that_is_not_there_is_one_line(url):
    there = make_url(url)
    for missing in (there.set(database="missing"), there.set(query={"host": "/nowhere"})):
        with pytest.raises(StoreError, match="does not answer as it should") as caught:
            Store.open(str(missing))
        assert "\n" not in str(caught.value)


def disconnect(url):
    """The server drops every connection to the database."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
    engine.dispose()


def test_a_claim_that_was_lost_with_its_connection_is_noticed_before_a_decision(server, url, add, environment):
    number = add(server)
    decision = (environment, Problem.self_attention(4096), Dense(), Config.of("sdpa", backend="flash"), number, None, 1)
    with server.claim("cell") as ours:
        assert ours
        server.decide(*decision)
        disconnect(url)
        with Store.open(url) as other, other.claim("cell") as theirs:
            assert theirs
        for _ in range(2):  # the claim does not come back with a new connection
            with pytest.raises(StoreError, match="another process may search the same; all measurements are stored"):
                server.decide(*decision)
            with pytest.raises(StoreError, match="another process may search the same"):
                server.add_race(
                    number, *decision[:3], {decision[3]: Measurement(status=Status.OK)}, *decision[3:4], None, 1
                )
        assert (len(server.records()), len(server.results().choices)) == (1, 1)
    with server.claim("cell") as ours:
        assert ours
        server.decide(*decision)
    assert len(server.results().choices) == 2


def test_a_server_that_goes_away_is_one_line(server, url, add, environment):
    add(server)
    disconnect(url)
    add(server)  # the lost connection is replaced
    assert len(server.records(pattern=Dense())) == 2
