"""The time added to a call is measured, printed and held to its limits."""

import pytest

from autotune import bench_dispatch
from autotune.bench_dispatch import Added, added_time, run_dispatch

from .command_line import refused, run


@pytest.mark.parametrize("threads", [1, 4])
def test_the_time_added_is_positive_and_small(threads):
    added = added_time(threads, calls=500)
    assert 0.1 < added.median_us < 100
    assert added.calls == 500


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
