"""Which implementation, with which parameters, compiled how."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.strategies.errors import ConfigError

Value = str | int | bool


@dataclass(frozen=True, slots=True)
class Config:
    """A strategy's name and its parameters, compile options among them.

    The parameters ``compile`` (``off`` or a mode of ``torch.compile``) and ``dynamic`` (whether the compiled graph
    takes every length) mean the same for every strategy. The identity of a configuration is its canonical JSON.

    >>> Config.of("ring", chunk_size=1024, compile="off").text
    'ring(chunk_size=1024, compile=off)'
    """

    strategy: str
    params: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, strategy: str, **params: Value) -> "Config":
        """A configuration from keyword parameters."""
        return cls(strategy, tuple(sorted(params.items())))

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """Read back what `json` wrote.

        >>> Config.from_json(Config.of("sdpa", backend="auto").json) == Config.of("sdpa", backend="auto")
        True

        Raises:
            ConfigError: the text is not a configuration.
        """
        try:
            fields = json.loads(text)
            return cls.of(fields["strategy"], **fields["params"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"config is {text[:80]!r}, but must be JSON with 'strategy' and 'params'") from error

    @property
    def json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        fields = {"params": dict(self.params), "strategy": self.strategy}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """Short content hash.

        >>> Config.of("ring", chunk_size=1024).id == Config.of("ring", chunk_size=2048).id
        False
        """
        return hashlib.sha256(self.json.encode()).hexdigest()[:12]

    @property
    def text(self) -> str:
        """The configuration as a person reads it."""
        return f"{self.strategy}({', '.join(f'{name}={value}' for name, value in self.params)})"

    @property
    def values(self) -> Mapping[str, Value]:
        """The parameters by name."""
        return dict(self.params)

    def get(self, name: str, default: Value) -> Value:
        """One parameter, or ``default`` where it is not set."""
        return self.values.get(name, default)

    def integer(self, name: str, default: int) -> int:
        """One whole-number parameter, or ``default`` where it is not set."""
        return int(self.values.get(name, default))

    def string(self, name: str, default: str) -> str:
        """One text parameter, or ``default`` where it is not set."""
        return str(self.values.get(name, default))
