"""Every strategy there is, by name."""

from autotune.strategies.block_sparse import BlockSparseRows
from autotune.strategies.config import Config
from autotune.strategies.dilated import DilatedBranches
from autotune.strategies.errors import ConfigError, UnsupportedError
from autotune.strategies.flex import Flex
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.strategies.ring import Ring
from autotune.strategies.sdpa import Sdpa
from autotune.strategies.strategy import Attention, Strategy

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy for strategy in (Sdpa(), DilatedBranches(), BlockSparseRows(), Ring(), Flex())
}


def strategy_of(config: Config) -> Strategy:
    """The strategy that a configuration names.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.strategy not in STRATEGIES:
        raise ConfigError(f"strategy is {config.strategy!r}, but must be one of {', '.join(STRATEGIES)}")
    return STRATEGIES[config.strategy]


def supported(problem: Problem, pattern: Pattern) -> dict[str, Strategy]:
    """The strategies that can do this, in the order of preference; the first one's default is *the* default."""
    return {name: strategy for name, strategy in STRATEGIES.items() if strategy.refusal(problem, pattern) is None}


def default_config(problem: Problem, pattern: Pattern) -> Config:
    """What runs while nothing has been measured.

    Raises:
        UnsupportedError: no strategy can do this.
    """
    for strategy in supported(problem, pattern).values():
        return strategy.space(problem, pattern).default
    reasons = "; ".join(f"{name}: {strategy.refusal(problem, pattern)}" for name, strategy in STRATEGIES.items())
    raise UnsupportedError(f"no strategy computes {pattern.label} for {problem.key} ({reasons})")


def refusal(problem: Problem, pattern: Pattern, config: Config) -> str | None:
    """Why a configuration cannot do a problem, in one clause; None if it can."""
    if config.strategy not in STRATEGIES:
        return f"strategy is {config.strategy!r}, but must be one of {', '.join(STRATEGIES)}"
    strategy = STRATEGIES[config.strategy]
    return strategy.refusal(problem, pattern) or strategy.space(problem, pattern).refusal(config)


def build(problem: Problem, pattern: Pattern, config: Config) -> Attention:
    """The callable of a configuration, after checking that it can do the problem.

    Raises:
        ConfigError: the configuration is malformed.
        PatternError: the pattern does not fit the problem.
        UnsupportedError: the strategy cannot do it; nothing else is tried in its place.
    """
    strategy = strategy_of(config)
    pattern.validate(problem)
    if (reason := strategy.refusal(problem, pattern)) is not None:
        raise UnsupportedError(f"{config.text} cannot do {pattern.label} for {problem.key}: {reason}")
    if (reason := strategy.space(problem, pattern).refusal(config)) is not None:
        raise ConfigError(f"{config.text}: {reason}")
    return strategy.build(problem, pattern, config)
