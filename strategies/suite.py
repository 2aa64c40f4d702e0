"""Named implementations: a function and one configuration of it, under a name that a benchmark publishes."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from autotune.strategies.config import Config
from autotune.strategies.errors import ConfigError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """One row of a benchmark.

    Args:
        name: as published.
        definition: exactly what is computed and how, for the report.
        serves: whether a pattern is the function that the name promises.
        config: how it is computed, at the length of the problem.
    """

    name: str
    definition: str
    serves: Callable[[Pattern], bool]
    config: Callable[[Problem], Config]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A benchmark: implementations that are measured side by side."""

    name: str
    title: str
    implementations: tuple[Implementation, ...]

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

    def of(self, pattern: Pattern) -> tuple[Implementation, ...]:
        """The implementations that compute this function."""
        return tuple(each for each in self.implementations if each.serves(pattern))

    def name_of(self, problem: Problem, pattern: Pattern, config: Config) -> str | None:
        """The name under which a measurement is published; None if it is not part of the suite."""
        return next((each.name for each in self.of(pattern) if each.config(problem) == config), None)
