"""What the model learns from few measurements, and that it looks where it knows nothing."""

import math

import pytest

from autotune.strategies.config import Config
from autotune.surrogate import Surrogate

GRID = [Config.of("ring", chunk=chunk, block=block) for chunk in range(6) for block in range(6)]


def log_ms(config):
    """Best at chunk 4 and block 1."""
    return math.log(1 + 0.3 * abs(config.integer("chunk", 0) - 4)) + math.log(
        1 + 0.2 * abs(config.integer("block", 0) - 1)
    )


def found_after(model, known):
    """How many more measurements until the best is among them."""
    begun = len(known)
    while Config.of("ring", chunk=4, block=1) not in known:
        chosen = model.most_promising([config for config in GRID if config not in known], known)
        assert chosen not in known
        known[chosen] = log_ms(chosen)
    return len(known) - begun


def test_each_values_effect_is_learnt_by_itself():
    cross = {config: log_ms(config) for config in GRID if 0 in (config.get("chunk", 9), config.get("block", 9))}
    assert found_after(Surrogate(GRID), cross) == 1  # seen with neither value beside the other


@pytest.mark.parametrize("begun", range(6))
def test_the_best_of_thirty_six_is_found_in_a_dozen(begun):
    start = {config: log_ms(config) for config in GRID[begun::9]}
    assert len(start) == 4
    assert found_after(Surrogate(GRID), start) <= 12


def test_a_strategy_nothing_is_known_of_is_tried_before_the_tenth_like_a_bad_one():
    slow = [Config.of("ring", chunk=chunk) for chunk in range(10)]
    other = Config.of("plain")
    known = dict.fromkeys(slow[:9], 1.0)
    assert Surrogate([*slow, other]).most_promising([slow[9], other], known) == other


def test_of_those_that_promise_the_same_it_is_the_first():
    known = {GRID[0]: 0.0}
    alike = [Config.of("ring", chunk=1, block=1), Config.of("ring", chunk=2, block=2)]
    model = Surrogate(GRID)
    assert model.most_promising(alike, known) == alike[0]
    assert model.most_promising(alike[::-1], known) == alike[1]


def test_the_same_data_give_the_same_choice_and_equal_ones_no_trouble():
    known, among = dict.fromkeys(GRID[:20], 1.0), GRID[20:]
    first = Surrogate(GRID).most_promising(among, known)
    assert first == Surrogate(GRID).most_promising(among, dict(reversed(known.items())))
    assert first.get("chunk", 0) in (4, 5)  # of which least is known
