"""The time added to a call is measured, printed and held to its limits."""

import threading
from functools import partial
from unittest import mock

import pytest

from autotune import bench_dispatch, current
from autotune.bench_dispatch import Added, added_time, run_dispatch

from .command_line import refused, run


@pytest.mark.parametrize("threads", [1, 4])
def test_the_time_added_is_positive_and_small(threads):
    added = added_time(threads, calls=500)
    assert 0.1 < added.median_us < 100
    assert added.calls == 500


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, bench_dispatch.THREADS])
def test_the_time_added_keeps_to_the_limits(threads):
    results = []
    while len(results) < 10:  # others' load only ever adds to the time, so one quiet run is enough
        results.append(added_time(threads))
        if results[-1].within_limits:
            break
    assert results[-1].within_limits, results
    assert (bench_dispatch.MEDIAN_LIMIT_US, bench_dispatch.P99_LIMIT_US) == (3.0, 10.0)


def test_what_fails_on_the_way_leaves_no_table_in_which_nothing_serves(monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_dispatch, "Thread", mock.Mock(return_value=mock.Mock(start=interrupt)))
    with pytest.raises(KeyboardInterrupt):
        added_time(1, calls=10)
    assert current.table().calls == {}


def test_where_a_thread_cannot_be_started_none_waits_for_it(monkeypatch):
    started = []

    class Scarce(threading.Thread):
        def start(self):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(bench_dispatch, "Thread", partial(Scarce, daemon=True))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        added_time(4, calls=10)
    for thread in started:
        thread.join(10)
    assert [thread.is_alive() for thread in started] == [False, False]


def test_the_limits_decide_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(bench_dispatch, "added_time", lambda threads: Added(threads, 10, 1.0 + threads, 9.0))
    with pytest.raises(SystemExit):
        run_dispatch()
    assert capsys.readouterr().out.splitlines() == [
        "1 thread : added per call: median 2.00 us (limit 3), p99 9.00 us (limit 10), 10 calls each",
        "8 threads: added per call: median 9.00 us (limit 3), p99 9.00 us (limit 10), 10 calls each",
    ]
    monkeypatch.setattr(bench_dispatch, "added_time", lambda threads: Added(threads, 10, 2.0, 9.0))
    run_dispatch()


def test_only_bench_has_the_suite():
    refused(run("limits", "--suite", "dispatch"), "'dispatch'")
