"""The contract rejects what is wrong: each planted fault of the kind once published fails the check made for it."""

import naive
import pytest
import torch
from cases import PATTERNS, self_attention
from contract import (
    check_constant_value,
    check_gradients,
    check_inputs_untouched,
    check_layout,
    check_locality,
    check_oracle,
    draw,
    row_error,
)

from autotune.strategies.catalog import STRATEGIES

PROBLEM = self_attention(127, causal=True)


def honest(pattern, problem=PROBLEM):
    """The definition, rounded to the dtype of the inputs."""

    def attend(q, k, v, *, scale=None):
        return naive.attention(q, k, v, naive.counts(pattern, problem), scale).to(q.dtype)

    return attend


def with_counts(change):
    """The definition of a pattern with its multiplicities tampered with."""

    def plant(pattern):
        def attend(q, k, v, *, scale=None):
            return naive.attention(q, k, v, change(naive.counts(pattern, PROBLEM).clone()), scale).to(q.dtype)

        return attend

    return plant


def one_more_key(counts):
    counts[-1, -1, 0] += 1
    return counts


FAULTS = {
    "zeros": lambda pattern: lambda q, k, v, scale=None: torch.zeros_like(q),
    "nan": lambda pattern: lambda q, k, v, scale=None: torch.full_like(q, torch.nan),
    "uninitialised width": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q, k, v)[..., :-1],
    "wrong dtype": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q, k, v).double(),
    "scale": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q, k, v, scale=0.5),
    "half precision": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q.half(), k, v).float(),
    "key heads interleaved": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q, k.flip(1), v.flip(1)),
    "heads rolled": lambda pattern: lambda q, k, v, scale=None: honest(pattern)(q, k, v).roll(1, 1),
    "multiplicity ignored": with_counts(lambda counts: counts.clamp(max=1)),
    "one more key in one row": with_counts(one_more_key),
    "not causal": with_counts(lambda counts: counts + counts.transpose(-1, -2)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_function_fails_the_oracle(fault):
    with pytest.raises(AssertionError):
        check_oracle(FAULTS[fault](PATTERNS["dilated"]), PROBLEM, PATTERNS["dilated"])


@pytest.mark.parametrize("name", PATTERNS)
def test_the_definition_itself_keeps_the_contract(name):
    pattern = PATTERNS[name]
    attention = honest(pattern)
    check_oracle(attention, PROBLEM, pattern, scale=0.2)
    check_constant_value(attention, PROBLEM, pattern)
    check_locality(attention, PROBLEM, pattern, 50)
    check_inputs_untouched(attention, PROBLEM, pattern)
    check_layout(attention, PROBLEM, pattern, "every_other")
    check_gradients(attention, PROBLEM, pattern)


@pytest.mark.parametrize("name", ["dilated", "window-16", "longnet-small"])
def test_another_pattern_fails_the_oracle(name):
    with pytest.raises(AssertionError):
        check_oracle(honest(PATTERNS["dense"]), PROBLEM, PATTERNS[name])


def test_summed_blocks_fail_on_constant_values():
    def summed(q, k, v, *, scale=None):
        return honest(PATTERNS["window-16"])(q, k, v) + honest(PATTERNS["dense"])(q, k, v)

    with pytest.raises(AssertionError):
        check_constant_value(summed, PROBLEM, PATTERNS["window-16"])


@pytest.mark.parametrize("fault", ["zeros", "not causal", "one more key in one row"])
def test_a_leak_or_a_deaf_row_fails_the_locality(fault):
    token = 0 if fault == "one more key in one row" else 50
    with pytest.raises(AssertionError):
        check_locality(FAULTS[fault](PATTERNS["dilated"]), PROBLEM, PATTERNS["dilated"], token)


def test_writing_into_the_query_is_noticed():
    def scaled_in_place(q, k, v, *, scale=None):
        return honest(PATTERNS["dense"])(q.mul_(0.5), k, v, scale=2 * q.shape[-1] ** -0.5)

    with pytest.raises(AssertionError):
        check_inputs_untouched(scaled_in_place, PROBLEM, PATTERNS["dense"])


@pytest.mark.parametrize("layout", ["transposed", "every_other"])
def test_ignoring_strides_is_noticed(layout):
    def contiguous(x):
        return x.as_strided(x.shape, torch.empty(x.shape).stride())

    def blind(q, k, v, *, scale=None):
        return honest(PATTERNS["dense"])(contiguous(q), contiguous(k), contiguous(v))

    with pytest.raises(AssertionError):
        check_layout(blind, PROBLEM, PATTERNS["dense"], layout)


@pytest.mark.parametrize(
    "fault",
    [
        lambda q, k, v: (q.detach(), k, v),
        lambda q, k, v: (q, k.detach(), v),
        lambda q, k, v: (q, k, v + v.detach() - v),
        lambda q, k, v: (q, 1.001 * k - 0.001 * k.detach(), v),
    ],
    ids=["no query", "no key", "no value", "a tenth of a percent"],
)
def test_wrong_gradients_fail(fault):
    pattern = PATTERNS["dilated"]
    with pytest.raises((AssertionError, RuntimeError)):
        check_gradients(lambda q, k, v: honest(pattern)(*fault(q, k, v)), PROBLEM, pattern)


def test_row_error_is_that_of_the_worst_row():
    out, expected = torch.ones(1, 1, 4, 9), torch.ones(1, 1, 4, 9, dtype=torch.float64)
    assert row_error(out, expected) == 0.0
    out[0, 0, 2] = 1.5
    assert row_error(out, expected) == pytest.approx(0.5)
    out[0, 0, 3, 0] = torch.inf
    assert row_error(out, expected) == torch.inf


def test_inputs_are_drawn_alike_each_time_and_differ_by_seed():
    assert torch.equal(draw(PROBLEM)[0], draw(PROBLEM)[0])
    assert not torch.equal(draw(PROBLEM)[0], draw(PROBLEM, seed=1)[0])
    assert not torch.equal(draw(PROBLEM)[1], draw(PROBLEM)[2])


def test_the_catalog_names_its_strategies():
    assert {name: strategy.name for name, strategy in STRATEGIES.items()} == {name: name for name in STRATEGIES}
