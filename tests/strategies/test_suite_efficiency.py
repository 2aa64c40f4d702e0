"""The rows of the efficiency suite: each strategy's default, and what a search settled on."""

import pytest

from autotune.strategies.catalog import STRATEGIES, refusal
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite import TUNED
from autotune.strategies.suite_efficiency import EFFICIENCY, EXACT, LONG, SHORT, WINDOWS
from autotune.strategies.suite_extreme import EXTREME

PATTERNS = (Dense(), LONG, SHORT, *WINDOWS)


def names(problem, pattern, suite=EFFICIENCY):
    return [each.name for each in suite.rows(problem, pattern).values()]


def test_the_functions_and_lengths_are_those_of_the_claims():
    cells = {
        (length, pattern) for series in EFFICIENCY.series for length in series.lengths for pattern in series.patterns
    }
    assert {length for length, pattern in cells if pattern == Dilated((2048, 4096, 8192), (1, 2, 4))} == {
        8192,
        32768,
        131072,
    }
    assert {length for length, pattern in cells if pattern == LocalWindow(0.95)} == {8192, 32768, 131072}
    assert {length for length, pattern in cells if pattern == Dilated((1024, 2048, 4096), (1, 2, 4))} == {65536}
    assert {length for length, pattern in cells if pattern == Dense()} == {8192, 32768, 65536, 131072}
    assert EFFICIENCY.directions == ("forward", "training")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("length", [64, 8192, 131072])
def test_each_strategy_stands_in_its_default_configuration(device, direction, length):
    problem = Problem.self_attention(length, device=device, direction=direction)
    expected = {"dilated": ["dilated", "ring"], "local_window": ["block_sparse", "flex"], "dense": ["exact"]}
    for pattern in PATTERNS:
        defaults = {c: each for c, each in EFFICIENCY.rows(problem, pattern).items() if "lanes" not in each.name}
        assert [each.name for each in defaults.values()] == expected[pattern.kind]
        for config, each in defaults.items():
            default = STRATEGIES[config.strategy].space(problem, pattern).default
            assert dict(config.params).items() <= dict(default.params).items()
            assert {name for name, _ in default.params} - {name for name, _ in config.params} <= {"kernel"}
            assert EFFICIENCY.name_of(problem, pattern, config) == each.name
            if device == "cpu":
                assert config == default
                known = STRATEGIES[config.strategy].refusal(problem, pattern)
                assert refusal(problem, pattern, config) == known


@pytest.mark.parametrize(
    ("device", "dtype", "kernels"),
    [
        ("cpu", "float32", ("lanes",)),
        ("cpu", "float16", ("lanes",)),
        ("cpu", "bfloat16", ("lanes", "amx")),
        ("cuda", "bfloat16", ()),
    ],
)
def test_a_row_stands_on_our_own_kernels_where_there_are_some(monkeypatch, device, dtype, kernels):
    monkeypatch.setattr("autotune.strategies.amx.has_amx", lambda: True)
    problem = Problem.self_attention(8192, device=device, dtype=dtype)
    found = {each.name: config for p in PATTERNS for config, each in EFFICIENCY.rows(problem, p).items()}
    expected = [f"{strategy}_{kernel}" for strategy in ("dilated", "block_sparse") for kernel in kernels]
    assert sorted(name for name in found if "_lanes" in name or "_amx" in name) == sorted(expected)
    for name in expected:
        config, pattern = found[name], WINDOWS[0] if name.startswith("block_sparse") else LONG
        assert config.get("kernel", "") == name.rpartition("_")[2]
        assert config in STRATEGIES[config.strategy].space(problem, pattern)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rows_are_the_same_on_a_machine_without_a_compiler_or_amx(monkeypatch, dtype):
    problem = Problem.self_attention(8192, dtype=dtype)
    monkeypatch.setattr("autotune.strategies.amx.has_amx", lambda: True)
    found = [list(EFFICIENCY.rows(problem, pattern)) for pattern in PATTERNS]
    monkeypatch.setattr("autotune.strategies.amx.has_amx", lambda: False)
    monkeypatch.setattr("autotune.strategies.lanes.compiler", lambda: None)
    assert "lanes" not in {config.get("kernel", "") for config in STRATEGIES["dilated"].space(problem, LONG)}
    assert [list(EFFICIENCY.rows(problem, pattern)) for pattern in PATTERNS] == found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])  # of bfloat16 a machine without a GPU has no kernel at all
def test_the_rows_are_the_same_on_a_machine_with_other_kernels(monkeypatch, dtype):
    problem = Problem.self_attention(8192, device="cuda", dtype=dtype)
    found = []
    for capability in ((0, 0), (9, 0)):
        monkeypatch.setattr("autotune.strategies.kernel_choice.cuda_capability", lambda now=capability: now)
        found.append([list(EFFICIENCY.rows(problem, pattern)) for pattern in PATTERNS])
    assert found[0] == found[1]


def test_what_a_search_settled_on_is_a_row_where_it_is_no_default():
    problem, config = Problem.self_attention(8192), Config.of("dilated", query_block=0, compile="off")
    (default, *_) = EFFICIENCY.rows(problem, LONG)
    decided = EFFICIENCY.deciding(
        {(problem, LONG): config, (problem, WINDOWS[0]): Config.of("flex", compile="default")}
    )
    assert names(problem, LONG, decided) == ["dilated", "ring", "dilated_lanes", TUNED]
    assert decided.name_of(problem, LONG, config) == TUNED
    assert names(problem, WINDOWS[0], decided) == ["block_sparse", "block_sparse_lanes", "flex"]
    assert names(Problem.self_attention(32768), LONG, decided) == ["dilated", "ring", "dilated_lanes"]
    assert names(problem, LONG, EFFICIENCY.deciding({(problem, LONG): default})) == ["dilated", "ring", "dilated_lanes"]
    assert decided.deciding({}).name_of(problem, LONG, config) is None


def test_other_suites_have_no_use_for_what_a_search_settled_on():
    problem = Problem.self_attention(8192)
    decided = EXTREME.deciding({(problem, Dense()): Config.of("flex", compile="default")})
    assert decided.rows(problem, Dense()).keys() == EXTREME.rows(problem, Dense()).keys()


def test_other_functions_of_the_same_strategies_are_not_of_the_suite():
    problem = Problem.self_attention(8192)
    for pattern in (Dilated.longnet(8192), LocalWindow(0.5), LocalWindow(0.9, block_size=64)):
        assert EFFICIENCY.rows(problem, pattern) == {}


def test_the_reference_stays_when_only_some_rows_are_wanted():
    chosen = EFFICIENCY.only(["ring", TUNED])
    assert [each.name for each in chosen.implementations] == ["ring", TUNED]
    assert chosen.reference.implementation is EXACT
    with pytest.raises(ConfigError, match=r"implementation is 'rings', but must be one of exact, dilated, ring"):
        EFFICIENCY.only(["rings"])
