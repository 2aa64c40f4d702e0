"""The declarative search space of a strategy: choices, conditions, constraints."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autotune.strategies.config import Config, Value

Constraint = Callable[[dict[str, Value]], bool]


@dataclass(frozen=True, slots=True)
class Choice:
    """One categorical parameter; the first value is the default.

    ``when`` names another parameter and the values of it for which this one exists.
    """

    name: str
    values: tuple[Value, ...]
    when: tuple[str, tuple[Value, ...]] | None = None

    def active(self, params: dict[str, Value]) -> bool:
        """Whether the parameter exists beside the ones chosen so far."""
        return self.when is None or params.get(self.when[0]) in self.when[1]


@dataclass(frozen=True, slots=True)
class Space:
    """Every configuration of one strategy for one problem.

    >>> space = Space("ring", (Choice("compile", ("off", "default")),
    ...                        Choice("dynamic", (False, True), when=("compile", ("default",)))))
    >>> [config.text for config in space]
    ['ring(compile=off)', 'ring(compile=default, dynamic=False)', 'ring(compile=default, dynamic=True)']
    """

    strategy: str
    choices: tuple[Choice, ...] = ()
    constraints: tuple[Constraint, ...] = ()

    def __iter__(self) -> Iterator[Config]:
        """All valid configurations, the default first."""
        return (Config.of(self.strategy, **params) for params in self._extend({}, self.choices))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def default(self) -> Config:
        """The first value of every active choice."""
        return next(iter(self))

    def refusal(self, config: Config) -> str | None:
        """Why a configuration is not one of this strategy's, in one clause; None if it is.

        Numbers may be others than those the search tries; words may not.

        >>> Space("ring", (Choice("chunk_size", (1024,)),)).refusal(Config.of("ring", chunk_sise=64))
        "parameter is 'chunk_sise', but must be one of chunk_size"
        """
        choices = {choice.name: choice for choice in self.choices}
        for name, value in config.params:
            if name not in choices:
                return f"parameter is {name!r}, but must be one of {', '.join(choices) or 'none'}"
            values = choices[name].values
            if type(values[0]) is not int and value not in values:
                return f"{name} is {value!r}, but must be one of {', '.join(map(str, values))}"
            if type(values[0]) is int and type(value) is not int:
                return f"{name} is {value!r}, but must be a whole number"
        return None

    def choose(self, pick: Callable[[str, tuple[Value, ...]], Value]) -> Config | None:
        """Ask ``pick(name, values)`` for each active choice in turn; None where a constraint refuses the result."""
        params: dict[str, Value] = {}
        for choice in self.choices:
            if choice.active(params):
                params[choice.name] = pick(choice.name, choice.values)
        return Config.of(self.strategy, **params) if self._allowed(params) else None

    def _allowed(self, params: dict[str, Value]) -> bool:
        return all(constraint(params) for constraint in self.constraints)

    def _extend(self, params: dict[str, Value], rest: tuple[Choice, ...]) -> Iterator[dict[str, Value]]:
        if not rest:
            if self._allowed(params):
                yield params
            return
        head, tail = rest[0], rest[1:]
        if not head.active(params):
            yield from self._extend(params, tail)
            return
        for value in head.values:
            yield from self._extend({**params, head.name: value}, tail)
