import time

import pytest
import torch

from autotune.timing import MAX_REPEATS, MIN_REPEATS, race, repeat_count, time_repeats

CPU = torch.device("cpu")


class Call:
    """A call that takes at least so many milliseconds each time; the last of them again and again."""

    def __init__(self, *milliseconds):
        self.milliseconds = milliseconds
        self.count = 0

    def __call__(self):
        time.sleep(self.milliseconds[min(self.count, len(self.milliseconds) - 1)] / 1e3)
        self.count += 1


@pytest.mark.parametrize(
    ("first_ms", "budget_s", "count"),
    [
        (1.0, 1.0, MAX_REPEATS),
        (0.0, 1.0, MAX_REPEATS),
        (100.0, 1.0, 10),
        (1e6, 1.0, MIN_REPEATS),
        (1.0, 0.0, MIN_REPEATS),
    ],
)
def test_repeats_fill_the_budget_within_bounds(first_ms, budget_s, count):
    assert repeat_count(first_ms, budget_s) == count


def test_every_repeat_is_kept_in_order():
    call = Call(60.0, 5.0)
    times = time_repeats(call, CPU, budget_s=0.0)
    assert len(times) == MIN_REPEATS == call.count
    assert times[0] >= 60.0
    assert all(5.0 <= ms < 60.0 for ms in times[1:])


def test_a_call_slower_than_allowed_is_timed_once():
    call = Call(5.0)
    assert len(time_repeats(call, CPU, budget_s=1.0, drop_over_ms=1.0)) == 1
    assert call.count == 1


@pytest.mark.parametrize(("rounds", "budget_s", "count"), [(4, 60.0, 4), (2, 60.0, 2), (4, 0.0, 2)])
def test_a_race_times_each_call_once_a_round_within_its_budget(rounds, budget_s, count):
    fast, slow = Call(1.0), Call(20.0)
    times = race([fast, slow], CPU, rounds=rounds, budget_s=budget_s)
    assert [len(each) for each in times] == [fast.count, slow.count] == [count, count]
    assert min(times[1]) >= 20.0
    assert min(times[0]) < 20.0


def test_contestants_take_turns_at_being_first():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    race(calls, CPU, rounds=3, budget_s=60.0)
    assert order == list("abcbcacab")


def test_freeing_the_output_is_not_timed():
    class Output:
        def __del__(self):
            time.sleep(0.05)

    assert max(time_repeats(Output, CPU, budget_s=0.0)) < 50.0
