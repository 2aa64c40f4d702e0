import pytest

from autotune.pace import Pace, Place


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("autotune.pace.time.monotonic", lambda: now[0])
    return now


def test_the_average_so_far_is_applied_to_what_is_left_here_and_after(clock):
    pace = Pace(left=4, after=10, deadline=float("inf"), started=100.0)
    assert pace.left_s() is None
    clock[0] += 6.0
    pace.step()
    clock[0] += 2.0
    pace.step()
    assert pace.left == 2
    assert pace.left_s() == 4.0 * (2 + 10)


def test_a_budget_is_all_there_is_left(clock):
    pace = Pace(left=4, after=0, deadline=105.0, started=100.0)
    assert pace.left_s() == 5.0
    clock[0] += 2.0
    pace.step()
    assert pace.left_s() == 3.0
    clock[0] += 9.0
    assert pace.left_s() == 0.0


def test_a_search_leaves_time_for_the_final():
    assert Place(1, 1, started=0.0, deadline=float("inf")).search_deadline == float("inf")
    assert 0.0 < Place(1, 1, started=0.0, deadline=10.0).search_deadline < 10.0
