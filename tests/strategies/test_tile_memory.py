"""Estimated peak memory of tile strategies: the bounds that are promised, and a real call within them."""

import subprocess
import sys

import pytest

from autotune.strategies.catalog import STRATEGIES, default_config
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite_efficiency import SHORT
from autotune.strategies.suite_extreme import EXTREME

MIB = 1 << 20
PROMISED = Problem.self_attention(65536)


@pytest.mark.parametrize("strategy", ["dilated", "ring"])
def test_65536_dilated_tokens_are_estimated_within_320_mib_in_every_configuration(strategy):
    known = STRATEGIES[strategy]
    for config in known.space(PROMISED, SHORT):
        assert PROMISED.output_bytes < known.memory_bytes(PROMISED, SHORT, config) <= 320 * MIB


def test_a_million_tokens_are_estimated_within_five_quarters_of_the_output():
    problem, pattern = Problem.self_attention(1 << 20), Dilated.longnet(1 << 20)
    bounded = {each.name: each.config(problem, pattern) for each in EXTREME.of(pattern)}
    names = ("ImprovedDilatedAttention", *(name for name in bounded if "Production" in name))
    for config in (default_config(problem, pattern), *(bounded[name] for name in names)):
        estimate = STRATEGIES[config.strategy].memory_bytes(problem, pattern, config)
        assert problem.output_bytes < estimate <= 1.25 * problem.output_bytes


MEASURE = """
import torch
from autotune.memory import watch_memory
from autotune.strategies.catalog import STRATEGIES, default_config
from autotune.strategies.problem import Problem
from autotune.strategies.suite_efficiency import SHORT

problem = Problem.self_attention(65536)
config = default_config(problem, SHORT)
inputs = [torch.randn(1, 8, 65536, 64) for _ in range(3)]
attend = STRATEGIES[config.strategy].build(problem, SHORT, config)
attend(*inputs)
print(watch_memory(lambda: attend(*inputs), torch.device("cpu"))[1])
print(STRATEGIES[config.strategy].memory_bytes(problem, SHORT, config))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident high-water marks are Linux's")
def test_65536_dilated_tokens_run_within_320_mib_and_a_tenth_of_the_estimate():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    measured, estimated = map(int, done.stdout.split())
    assert measured <= 320 * MIB
    assert 0.95 * measured <= estimated <= 1.1 * measured
