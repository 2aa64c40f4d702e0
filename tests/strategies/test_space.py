"""Declarative search spaces: which configurations exist, in which order."""

import itertools

import pytest
from geometry import examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.config import Config
from autotune.strategies.space import Choice, Space

COMPILED = Choice("compile", ("off", "default", "max-autotune"))
DYNAMIC = Choice("dynamic", (False, True), when=("compile", ("default", "max-autotune")))
CHUNK = Choice("chunk_size", (1024, 512))


def test_a_space_without_choices_holds_one_configuration():
    assert list(Space("sdpa")) == [Config.of("sdpa")]
    assert len(Space("sdpa")) == 1
    assert Space("sdpa").default == Config.of("sdpa")


def test_free_choices_are_crossed_in_order_default_first():
    space = Space("ring", (CHUNK, Choice("order", ("forward", "backward"))))
    assert [config.text for config in space] == [
        "ring(chunk_size=1024, order=forward)",
        "ring(chunk_size=1024, order=backward)",
        "ring(chunk_size=512, order=forward)",
        "ring(chunk_size=512, order=backward)",
    ]
    assert space.default.values == {"chunk_size": 1024, "order": "forward"}


def test_a_conditional_choice_exists_only_beside_its_condition():
    configs = list(Space("flex", (COMPILED, DYNAMIC)))
    assert len(configs) == len(set(configs)) == 1 + 2 + 2
    for config in configs:
        assert ("dynamic" in config.values) == (config.string("compile", "") != "off")


def test_a_condition_on_an_absent_choice_is_not_met():
    depth = Choice("depth", (1, 2), when=("dynamic", (True,)))
    configs = list(Space("flex", (COMPILED, DYNAMIC, depth)))
    assert len(configs) == 1 + 2 * (1 + 2)
    assert {config.get("depth", 0) for config in configs if not config.get("dynamic", False)} == {0}


def test_constraints_leave_only_what_all_of_them_allow():
    space = Space(
        "flex",
        (Choice("block_m", (64, 32, 16)), Choice("block_n", (64, 32, 16))),
        (lambda params: params["block_m"] >= params["block_n"], lambda params: params["block_n"] > 16),
    )
    held = [(config.integer("block_m", 0), config.integer("block_n", 0)) for config in space]
    assert held == [(64, 64), (64, 32), (32, 32)]
    assert len(space) == 3


def test_the_default_is_the_first_that_the_constraints_allow():
    space = Space("ring", (CHUNK,), (lambda params: params["chunk_size"] < 1000,))
    assert space.default == Config.of("ring", chunk_size=512)


def test_choose_asks_only_for_active_choices_and_returns_what_was_picked():
    asked = []

    def pick_last(name, values):
        asked.append((name, values))
        return values[-1]

    space = Space("flex", (COMPILED, DYNAMIC, CHUNK))
    assert space.choose(pick_last) == Config.of("flex", compile="max-autotune", dynamic=True, chunk_size=512)
    assert asked == [(choice.name, choice.values) for choice in space.choices]
    assert (
        space.choose(lambda name, values: values[0])
        == space.default
        == Config.of("flex", compile="off", chunk_size=1024)
    )


def test_choose_returns_none_where_a_constraint_refuses():
    space = Space("ring", (CHUNK,), (lambda params: params["chunk_size"] < 1000,))
    assert space.choose(lambda name, values: values[0]) is None


@st.composite
def spaces(draw):
    choices = []
    for number in range(draw(st.integers(0, 4))):
        when = None
        if choices and draw(st.booleans()):
            other = draw(st.sampled_from(choices))
            when = (other.name, tuple(draw(st.lists(st.sampled_from(other.values), min_size=1, unique=True))))
        choices.append(Choice(f"p{number}", tuple(range(draw(st.integers(1, 3)))), when))
    limit = draw(st.integers(0, 6))
    return Space("any", tuple(choices), (lambda params: sum(params.values()) <= limit,))


@given(spaces())
@examples
def test_iterating_and_choosing_give_the_same_configurations(space):
    chosen = set()
    for picks in itertools.product(*(choice.values for choice in space.choices)):
        by_name = dict(zip([choice.name for choice in space.choices], picks, strict=True))
        chosen.add(space.choose(lambda name, _, by_name=by_name: by_name[name]))
    configs = list(space)
    assert len(configs) == len(set(configs)) == len(space)
    assert set(configs) == chosen - {None}
    if configs:
        assert space.default == configs[0]


@pytest.mark.parametrize("params", [{}, {"compile": "off"}])
def test_an_unconditional_choice_is_always_active(params):
    assert CHUNK.active(params)
    assert not DYNAMIC.active(params)
