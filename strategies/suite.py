"""Named implementations: a function and one configuration of it, under a name that a benchmark publishes."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config, Value
from autotune.strategies.errors import ConfigError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Direction, Problem

TUNED = "tuned"  # the name of what a search decided on


def configured(strategy: str, problem: Problem, pattern: Pattern, **params: Value) -> Config:
    """A strategy's default but for some parameters; it names every choice, and so is what a search calls it.

    GPUs differ in their kernels, and a report may be made on another; where none is named, the preferred one runs.
    """
    space = STRATEGIES[strategy].space(problem, pattern)
    config = space.choose(lambda name, values: params.get(name, values[0])) or space.default
    unnamed = () if problem.device == "cpu" else ("kernel",)
    return Config.of(strategy, **{name: value for name, value in config.params if name not in unnamed} | params)


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One row of a benchmark.

    Args:
        name: as published.
        definition: exactly what is computed and how, for the report.
        serves: whether a pattern is the function that the name promises, or one of several.
        config: how it is computed; None where nothing is known to stand for the name.
        refusal: why it cannot keep what its name promises for a problem; empty if it can.
        names_function: whether the name says which function is computed, but for the segments of a dilated one.
    """

    name: str
    definition: str
    serves: Callable[[Pattern], bool]
    config: Callable[[Problem, Pattern], Config | None]
    refusal: Callable[[Problem], str] = lambda problem: ""
    names_function: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Functions that are measured at the same lengths.

    Args:
        lengths: where the caller names no others.
        patterns: the functions; of one given as a word the caller names the parameters.
    """

    lengths: tuple[int, ...]
    patterns: tuple[str | Pattern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Exact attention whose rate the others are held against, timed in the same rounds.

    Args:
        implementation: how it is computed.
        call_s: it is taken at the longest length whose call stays within so many seconds.
    """

    implementation: Implementation
    call_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A benchmark: implementations that are measured side by side.

    Args:
        name: by which it is asked for.
        title: of its report.
        implementations: the rows.
        series: what is measured where the caller does not say.
        directions: likewise.
        reference: None where nothing but the rows themselves is compared.
        race_s: what is spent on timing the rows of one length in turn.
    """

    name: str
    title: str
    implementations: tuple[Implementation, ...]
    series: tuple[Series, ...] = ()
    directions: tuple[Direction, ...] = ("forward",)
    reference: Reference | None = None
    race_s: float = 60.0

    @property
    def is_grid(self) -> bool:
        """Whether every implementation has its place at every length."""
        return len(self.series) < 2

    def only(self, names: Collection[str]) -> "Suite":
        """The suite with the implementations named; with all of them if none is.

        Raises:
            ConfigError: a name is unknown.
        """
        known = [each.name for each in self.implementations]
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"implementation is {unknown[0]!r}, but must be one of {', '.join(known)}")
        chosen = tuple(each for each in self.implementations if not names or each.name in names)
        return replace(self, implementations=chosen)

    def deciding(self, decided: Mapping[tuple[Problem, Pattern], Config]) -> "Suite":
        """The suite in which `TUNED`, if it is a row, stands for these configurations."""

        def config(problem: Problem, pattern: Pattern) -> Config | None:
            return decided.get((problem, pattern))

        rows = (replace(each, config=config) if each.name == TUNED else each for each in self.implementations)
        return replace(self, implementations=tuple(rows))

    def of(self, pattern: Pattern) -> tuple[Implementation, ...]:
        """The implementations that compute this function."""
        return tuple(each for each in self.implementations if each.serves(pattern))

    def rows(self, problem: Problem, pattern: Pattern) -> dict[Config, Implementation]:
        """What is measured in a cell; a configuration that two names stand for is a row of the first."""
        found: dict[Config, Implementation] = {}
        for each in self.of(pattern):
            if (config := each.config(problem, pattern)) is not None:
                found.setdefault(config, each)
        return found

    def name_of(self, problem: Problem, pattern: Pattern, config: Config) -> str | None:
        """The name under which a measurement is published; None if it is not part of the suite."""
        row = self.rows(problem, pattern).get(config)
        return None if row is None else row.name
