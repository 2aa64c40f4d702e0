"""Every configuration of every search space computes the same function, and no other configuration is accepted."""

from dataclasses import replace

import pytest
import torch
from cases import FEW, PATTERNS, Case, both_ways, expand, fits, over, self_attention
from contract import check_gradients, check_oracle, sampled

from autotune.strategies.catalog import STRATEGIES, build, default_config, strategy_of, supported
from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError, PatternError, UnsupportedError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.tile_strategy import TileStrategy

PROBLEMS = both_ways([self_attention(300)])
ANY = [
    Case(strategy.name, name, pattern, problem, Config(strategy.name))
    for problem in [*PROBLEMS, self_attention(1), self_attention(4099)]
    for name, pattern in FEW.items()
    for strategy in supported(problem, pattern).values()
]
TRAINING = both_ways([replace(self_attention(127), direction="training")])
CHUNKED = [
    Case("ring", name, PATTERNS[name], problem, Config.of("ring", chunk_size=chunk_size, compile="off"))
    for problem in both_ways([replace(self_attention(127), direction="training")])
    for name in ("dense", "dilated-blocked-uneven", "dilated-patchy", "longnet-small")
    for chunk_size in (1, 33, 64, 10_000)
]
BLOCKED = [
    Case(strategy.name, name, pattern, problem, Config.of(strategy.name, query_block=query_block, compile="off"))
    for problem in both_ways([replace(self_attention(127), direction="training"), self_attention(64, shape=(4, 2, 8))])
    for name, pattern in PATTERNS.items()
    for strategy in supported(problem, pattern).values()
    if isinstance(strategy, TileStrategy) and fits(pattern, problem)
    for query_block in (1, 33, 64, 10_000)
]
CROSS = [
    Case("ring", "dense", Dense(), replace(problem, query_len=rows, kv_len=keys), config)
    for problem in both_ways([replace(self_attention(1), direction="training")])
    for rows, keys in ((150, 61), (61, 150))
    for config in (Config.of("ring", chunk_size=size, query_block=block) for size in (40, 200) for block in (40, 0))
]
OWN_KERNELS = [
    case
    for case in expand(both_ways([self_attention(300, dtype="bfloat16", direction="training")]), every_config=True)
    if case.config.string("kernel", "flash") != "flash"
]


@over(expand(PROBLEMS, every_config=True))
def test_every_uncompiled_configuration_computes_the_pattern(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem, 40))


@over(expand([self_attention(4099, shape=(2, 1, 16), causal=True)], FEW, every_config=True))
def test_every_uncompiled_configuration_of_a_longer_problem_computes_the_pattern(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem))


@over(OWN_KERNELS)
@pytest.mark.usefixtures("nan_memory")
def test_kernels_of_our_own_give_the_same_function_and_gradients_in_half_precision(case):
    check_oracle(case.build(), case.problem, case.pattern, queries=sampled(case.problem, 40))
    check_gradients(case.build(), case.problem, case.pattern)


@over(CHUNKED)
def test_any_chunk_size_gives_the_same_function_and_gradients(case):
    check_oracle(case.build(), case.problem, case.pattern)
    check_gradients(case.build(), case.problem, case.pattern)


@over(BLOCKED + CROSS)
def test_any_query_block_gives_the_same_function_and_gradients(case):
    check_oracle(case.build(), case.problem, case.pattern)
    if case.problem.training:
        check_gradients(case.build(), case.problem, case.pattern)


@over(expand(PROBLEMS[:1], {"dense": Dense()}))
def test_without_rates_there_is_nothing_to_copy(case):
    assert all("reads" not in config.values for config in STRATEGIES[case.strategy].space(case.problem, case.pattern))


@over([case for case in expand(TRAINING, PATTERNS, every_config=True) if case.config.string("reads", "") == "copies"])
@pytest.mark.usefixtures("nan_memory")
def test_copies_of_a_grid_give_the_same_function_and_gradients(case):
    check_oracle(case.build(), case.problem, case.pattern)
    check_gradients(case.build(), case.problem, case.pattern)


@over(ANY)
def test_a_space_holds_distinct_configurations_of_its_strategy_default_first(case):
    space = STRATEGIES[case.strategy].space(case.problem, case.pattern)
    configs = list(space)
    assert configs[0] == space.default
    assert len({config.id for config in configs}) == len(configs)
    assert {config.strategy for config in configs} == {case.strategy}
    assert all(Config.from_json(config.json) == config for config in configs)


@over(ANY)
@pytest.mark.parametrize("direction", ["forward", "training"])
def test_the_memory_estimate_is_never_below_the_output(case, direction):
    strategy, problem = STRATEGIES[case.strategy], replace(case.problem, direction=direction)
    for config in strategy.space(problem, case.pattern):
        for larger in (problem, replace(problem, batch=20)):
            estimate = strategy.memory_bytes(larger, case.pattern, config)
            assert isinstance(estimate, int)
            assert estimate >= larger.output_bytes


@over(ANY)
def test_no_configuration_claims_less_arithmetic_than_the_function_takes(case):
    strategy, function = STRATEGIES[case.strategy], case.pattern.flops(case.problem)
    space = strategy.space(case.problem, case.pattern)
    union = [config for config in space if config.string("keys", "") == "union"]
    seen = share_seen(case) if union else 1.0
    for config in space:
        least = function * (seen if config in union else 1)
        assert strategy.flops(case.problem, case.pattern, config) >= 0.999 * least


def share_seen(case):
    """Different keys of a query in relation to all that it counts, on average."""
    seen = counted = 0
    for head in range(case.problem.heads):
        for queries in torch.arange(case.problem.query_len).split(256):  # rows that stay in a cache
            counts = case.pattern.mask_rows(case.problem, head, queries)
            seen, counted = seen + int(counts.count_nonzero()), counted + int(counts.sum())
    return seen / counted


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_refusal_is_one_clause_and_building_in_spite_of_it_fails(name):
    refusals = 0
    for problem in (self_attention(127), replace(self_attention(127), direction="training")):
        for pattern in PATTERNS.values():
            reason = STRATEGIES[name].refusal(problem, pattern)
            if reason is not None:
                refusals += 1
                assert reason.strip()
                assert "\n" not in reason
                with pytest.raises(UnsupportedError) as caught:
                    build(problem, pattern, STRATEGIES[name].space(problem, pattern).default)
                assert reason in str(caught.value)
    assert refusals


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_parameter_that_the_space_does_not_know_is_refused(name):
    problem = self_attention(127)
    pattern = next(p for p in PATTERNS.values() if STRATEGIES[name].refusal(problem, p) is None)
    default = STRATEGIES[name].space(problem, pattern).default
    build(problem, pattern, default)
    with pytest.raises(ConfigError, match="chunk_sise"):
        build(problem, pattern, Config.of(name, **default.values, chunk_sise=64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config.of("magic"), "strategy is 'magic', but must be one of .*sdpa"),
        (Config.of("ring", chunk_size=0), "chunk_size is 0, but must be at least 1"),
        (Config.of("ring", chunk_size=-64), "chunk_size is -64"),
        (Config.of("ring", chunk_size="many"), "chunk_size is 'many'"),
        (Config.of("ring", query_block=-1), "query_block is -1, but must be at least 1, or 0"),
        (Config.of("ring", compile="sometimes"), "compile is 'sometimes', but must be one of off"),
        (Config.of("sdpa", compile="sometimes"), "compile is 'sometimes'"),
        (Config.of("flex", compile="off"), "compile is 'off'"),
        (Config.of("sdpa", backend="magic"), "backend is 'magic', but must be one of auto"),
    ],
    ids=lambda value: value.text if isinstance(value, Config) else "",
)
def test_a_configuration_out_of_range_is_refused_with_value_and_limit(config, message):
    with pytest.raises(ConfigError, match=message):
        build(self_attention(127), Dense(), config)


def test_a_kernel_that_the_device_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"kernel is 'efficient', but must be one of flash, lanes"):
        build(self_attention(127), Dense(), Config.of("ring", chunk_size=64, kernel="efficient"))


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (Dilated((8,), (2,)), self_attention(127)),
        (LocalWindow(sparsity=0.5), Problem(query_len=7, kv_len=8)),
        (Dilated((8,), (1,)), Problem(query_len=7, kv_len=8)),
    ],
    ids=["uncovered", "window across", "dilated across"],
)
def test_a_pattern_that_does_not_fit_the_problem_is_refused_before_anything_runs(pattern, problem):
    for name, strategy in supported(problem, pattern).items():
        assert strategy.name == name
        with pytest.raises(PatternError):
            build(problem, pattern, strategy.space(problem, pattern).default)


@pytest.mark.parametrize(
    ("name", "strategy"), [("dense", "sdpa"), ("dilated", "dilated"), ("window-16", "block_sparse")]
)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.key)
def test_what_runs_untuned_is_the_plain_uncompiled_strategy_of_the_pattern(name, strategy, problem):
    config = default_config(problem, PATTERNS[name])
    assert config.strategy == strategy
    assert config.string("compile", "off") == "off"
    assert strategy_of(config) is STRATEGIES[strategy]
