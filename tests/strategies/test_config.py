"""Configurations: one canonical text and one id each, however they were written."""

import json

import pytest
from geometry import examples
from hypothesis import given
from hypothesis import strategies as st

from autotune.strategies.config import Config
from autotune.strategies.errors import AutotuneError, ConfigError

values = st.one_of(st.booleans(), st.integers(-(2**40), 2**40), st.text(max_size=6))
names = st.text("abcdefghij_", min_size=1, max_size=6)
params = st.dictionaries(names, values, max_size=4)


@given(names, params)
@examples
def test_json_round_trips_to_the_same_configuration(strategy, params):
    config = Config.of(strategy, **params)
    again = Config.from_json(config.json)
    assert again == config
    assert (again.json, again.id, hash(again)) == (config.json, config.id, hash(config))
    assert json.loads(config.json) == {"strategy": strategy, "params": params}


@given(params, st.randoms())
@examples
def test_the_order_of_parameters_does_not_matter(params, random):
    shuffled = list(params.items())
    random.shuffle(shuffled)
    one, other = Config.of("ring", **params), Config.of("ring", **dict(shuffled))
    assert one == other
    assert one.json == other.json


@given(params, params)
@examples
def test_ids_are_equal_just_where_configurations_are(one, other):
    first, second = Config.of("ring", **one), Config.of("ring", **other)
    assert (first == second) == (first.id == second.id)


@pytest.mark.parametrize(
    ("config", "text", "id"),
    [
        (Config.of("sdpa"), '{"params":{},"strategy":"sdpa"}', "7c92385442cd"),
        (
            Config.of("ring", dynamic=False, chunk_size=1024, compile="off"),
            '{"params":{"chunk_size":1024,"compile":"off","dynamic":false},"strategy":"ring"}',
            "a1d2a53c09f2",
        ),
    ],
)
def test_canonical_json_and_id_never_change(config, text, id):
    # Databases hold these: a change here orphans every stored measurement.
    assert config.json == text
    assert config.id == id


@pytest.mark.parametrize(
    "text",
    [
        *("", "ring", "3", "null", "[]", "{}", '{"strategy":"ring"}', '{"params":{}}'),
        *('{"strategy":"ring","params":[1]}', '{"strategy":"ring","params":null}'),
    ],
)
def test_text_that_is_no_configuration_is_refused(text):
    with pytest.raises(ConfigError, match="must be JSON with 'strategy' and 'params'") as caught:
        Config.from_json(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, AutotuneError)


def test_a_long_bad_text_is_cut_in_the_message():
    with pytest.raises(ConfigError) as caught:
        Config.from_json("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_parameters_are_read_by_type_with_a_default():
    config = Config.of("ring", chunk_size=1024, compile="off", overlap=False)
    assert config.integer("chunk_size", 1) == 1024
    assert config.integer("depth", 7) == 7
    assert config.string("compile", "default") == "off"
    assert config.string("mode", "x") == "x"
    assert config.get("overlap", True) is False
    assert config.get("absent", True) is True


def test_text_names_the_strategy_and_every_parameter():
    assert Config.of("ring", overlap=True, chunk_size=8).text == "ring(chunk_size=8, overlap=True)"
