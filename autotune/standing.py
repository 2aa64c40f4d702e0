"""Where a configuration stands in a choice: whether it has room and may run, and which of those that may is first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autotune.decide import APART_TIE
from autotune.decision import Rejected, Source
from autotune.prediction import Option
from autotune.strategies.catalog import strategy_of
from autotune.strategies.compiling import OFF
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.units import format_bytes, format_ms

# Why a configuration may not run just now, in one clause; None if it may. The flag: whether it was measured for this.
Hindrance = Callable[[Pattern, Config, bool], str | None]
ONE_LENGTH = "its graph would hold for this length only; `autotune.warmup` compiles it"


def free_to_run(pattern: Pattern, config: Config, measured: bool) -> None:
    """No hindrance."""


def nothing_compiled(pattern: Pattern, config: Config, measured: bool) -> str | None:
    """What hinders in a process that has compiled nothing yet."""
    if measured or config.string("compile", OFF) == OFF or not strategy_of(config).one_length_only(config):
        return None
    return ONE_LENGTH


@dataclass(frozen=True, slots=True)
class Room:
    """How much memory there is.

    Args:
        limit_bytes: what a call may take above its inputs.
        ceilings: for some patterns, less than what has run out of memory.
    """

    limit_bytes: int
    ceilings: Mapping[Pattern, int]

    def fits(self, pattern: Pattern, need_bytes: int) -> bool:
        """Whether so much may be taken."""
        return need_bytes <= min(self.limit_bytes, self.ceilings.get(pattern, self.limit_bytes))

    def refusal(self, option: Option) -> str | None:
        """Why an option has no room, in one clause."""
        need_bytes = option.memory.peak_bytes
        if self.fits(option.pattern, need_bytes):
            return None
        need = f"needs {format_bytes(need_bytes)} ({option.memory.basis})"
        if need_bytes > self.limit_bytes:
            return f"{need}, limit {format_bytes(self.limit_bytes)}"
        return f"{need}, no less than what ran out of memory here"

    @property
    def text(self) -> str:
        """What there is, as the beginning of an error message."""
        if self.ceilings:
            return "memory ran out, and"
        return f"memory limit is {format_bytes(self.limit_bytes)}, but"


@dataclass(frozen=True, slots=True)
class Standing:
    """An option, the rung it comes from, and why it may not be chosen."""

    option: Option
    source: Source
    too_large: str | None
    hindrance: str | None

    @property
    def able(self) -> bool:
        """Whether it may be chosen."""
        return self.too_large is None and self.hindrance is None

    @property
    def time_ms(self) -> float:
        """What a call is expected to take."""
        return self.option.time_ms

    def rejected(self) -> Rejected:
        """The option as an alternative that does not run."""
        option = self.option
        slower = format_ms(option.time_ms)
        return Rejected(
            pattern=option.pattern,
            config=option.config,
            reason=self.too_large or (slower if self.hindrance is None else f"{slower}, but {self.hindrance}"),
            predicted_ms=option.time_ms,
            predicted_memory_bytes=option.memory.peak_bytes,
        )


def fastest_of(able: Sequence[Standing]) -> Standing:
    """The fastest of all patterns' leaders."""
    by_pattern: dict[Pattern, list[Standing]] = {}
    for one in able:
        by_pattern.setdefault(one.option.pattern, []).append(one)
    return min(map(_leader, by_pattern.values()), key=lambda one: one.time_ms)


def _leader(able: Sequence[Standing]) -> Standing:
    """The fastest for a pattern; a tie goes to the winner of more searches, and what a race has settled holds."""
    favourite = max(able, key=lambda one: (one.option.won, -one.time_ms))
    rivals = [one for one in able if not _settled_between(favourite, one)]
    fastest = min((favourite, *rivals), key=lambda one: one.time_ms)
    tied = [one for one in (favourite, *rivals) if one.time_ms <= fastest.time_ms * (1 + APART_TIE)]
    return max(tied, key=lambda one: (one.option.won, -one.time_ms))


def _settled_between(winner: Standing, other: Standing) -> bool:
    """Whether a search has timed both in turn and settled on the first, more surely than their medians tell."""
    race = winner.option.record.measurement.race
    return winner.option.won == 1 and race is not None and race == other.option.record.measurement.race
