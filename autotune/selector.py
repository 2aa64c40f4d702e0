"""The run-time choice: the fastest known configuration that fits, and why."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from autotune.calibration import Prediction
from autotune.db.records import Choice, Environment, Record
from autotune.decide import APART_TIE
from autotune.decision import Decision, NothingFitsError, Rejected, Source
from autotune.prediction import Evidence, Option
from autotune.strategies.catalog import default_config
from autotune.strategies.config import Config
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes, format_ms

# Why a configuration may not run just now, in one clause; None if it may. The flag: whether it was measured for this.
Hindrance = Callable[[Pattern, Config, bool], str | None]


def free_to_run(pattern: Pattern, config: Config, measured: bool) -> None:
    """No hindrance."""


class _Rung(NamedTuple):
    """A step of the ladder that had options, and how the choice of one of them is explained."""

    source: Source
    options: list[Option]


@dataclass(frozen=True, slots=True)
class _Standing:
    """An option, the rung it comes from, and why it may not be chosen."""

    option: Option
    source: Source
    hindrance: str | None

    @property
    def rank(self) -> tuple[bool, float]:
        """The winner of the search first, or of both searches; then by time, a tie going to a winner of one."""
        option = self.option
        return (option.won < 1, option.time_ms * (1 if option.won else 1 + APART_TIE))

    def rejected(self, reason: str) -> Rejected:
        """The option as an alternative that does not run."""
        option = self.option
        return Rejected(
            pattern=option.pattern,
            config=option.config,
            reason=reason,
            predicted_ms=option.time_ms,
            predicted_memory_bytes=option.memory.peak_bytes,
        )


class Selector:
    """An immutable table of what was measured on one device, and of what came with the package for it."""

    def __init__(
        self,
        environment: Environment,
        records: Iterable[Record],
        choices: Iterable[Choice] = (),
        shipped: Iterable[Record] = (),
    ) -> None:
        known, chosen = list(records), list(choices)
        self._measured = Evidence(
            (record for record in known if record.environment == environment),
            (choice for choice in chosen if choice.environment == environment),
        )
        self._unverified = Evidence(
            (record for record in known if _by_other_software(record.environment, environment)),
            (choice for choice in chosen if _by_other_software(choice.environment, environment)),
        )
        self._shipped = Evidence(shipped)

    def choose(
        self,
        problem: Problem,
        patterns: Sequence[Pattern],
        memory_limit_bytes: int,
        *,
        ceilings: Mapping[Pattern, int] = MappingProxyType({}),
        hindrance: Hindrance = free_to_run,
    ) -> Decision:
        """The fastest configuration of any accepted pattern that fits.

        Args:
            problem: what is to be computed.
            patterns: the functions the caller accepts, the preferred one first.
            memory_limit_bytes: what a call may take above its inputs.
            ceilings: for some patterns, less than what has run out of memory.
            hindrance: why a configuration may not run just now.

        Raises:
            NothingFitsError: no known configuration fits.
            PatternError: no accepted pattern is defined for the problem.
            UnsupportedError: nothing is known of the patterns, and no strategy can do them.
        """
        patterns = _applicable(problem, patterns)
        steps: list[str] = []
        known: list[_Standing] = []
        for pattern in patterns:
            source, options = self._climb(problem, pattern, steps)
            known.extend(
                _Standing(option, source, hindrance(pattern, option.config, source == "measured")) for option in options
            )
        room = _Room(memory_limit_bytes, ceilings)
        able = [one for one in known if one.hindrance is None and room.refusal(one.option) is None]
        if able:
            return _decision(problem, able, known, room, tuple(steps))
        return _default(problem, patterns, known, room, steps, self._measured.memory)

    def _climb(self, problem: Problem, pattern: Pattern, steps: list[str]) -> _Rung:
        """The first rung that knows something of a pattern; what each rung said is added to the steps."""
        rungs: tuple[tuple[Source, Callable[[Problem, Pattern], list[Option]], str], ...] = (
            ("measured", self._measured.measured, "this very problem"),
            ("interpolated", self._measured.interpolated, "lengths on both sides of this one"),
            ("neighbour", self._measured.neighbour, "any problem like it"),
            ("unverified", partial(_all_of, self._unverified), "this device with other software"),
            ("shipped", partial(_all_of, self._shipped), "this device and pattern"),
        )
        for source, ask, where in rungs:
            if options := ask(problem, pattern):
                steps.append(f"{source}: {len(options)} of {pattern.label}")
                return _Rung(source, options)
            steps.append(f"{source}: none of {pattern.label} for {where}")
        return _Rung("default", [])


def _by_other_software(taken: Environment, here: Environment) -> bool:
    return taken != here and taken.is_same_device(here)


def _all_of(evidence: Evidence, problem: Problem, pattern: Pattern) -> list[Option]:
    """What the evidence says, one way or another."""
    return (
        evidence.measured(problem, pattern)
        or evidence.interpolated(problem, pattern)
        or evidence.neighbour(problem, pattern)
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """How much memory there is."""

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


def _default(
    problem: Problem,
    patterns: Sequence[Pattern],
    known: Sequence[_Standing],
    room: _Room,
    steps: Sequence[str],
    memory: Callable[[Problem, Pattern, Config], Prediction],
) -> Decision:
    """The first accepted pattern's default that fits, unless it is known not to.

    Raises:
        NothingFitsError: none does.
    """
    ruled_out = {(one.option.pattern, one.option.config) for one in known if one.hindrance is None}
    needs = [one.option.memory for one in known if one.hindrance is None]
    for pattern in patterns:
        config = default_config(problem, pattern)
        if (pattern, config) in ruled_out:
            continue
        needs.append(memory(problem, pattern, config))
        if room.fits(pattern, needs[-1].peak_bytes):
            return Decision(
                problem=problem,
                pattern=pattern,
                config=config,
                source="default",
                reason=_why_default(known),
                steps=(*steps, f"default: of {pattern.label}"),
                predicted_memory_bytes=needs[-1].peak_bytes,
                memory_basis=needs[-1].basis,
                rejected=tuple(_without_room(known, room)),
            )
    who = "known configuration" if known else "default"
    remedy = "raise the limit, free memory or accept another pattern"
    untuned = "" if known else "; nothing is tuned, so also run `autotune tune`"
    need = format_bytes(min(need.peak_bytes for need in needs))
    raise NothingFitsError(
        f"{room.text} the most frugal {who} of the accepted patterns needs {need}; {remedy}{untuned}"
    )


def _why_default(known: Sequence[_Standing]) -> str:
    if not known:
        return "nothing is tuned for this device and pattern; run `autotune tune`"
    return "no measured configuration fits or may run now, and the default is estimated to fit"


def _decision(
    problem: Problem, able: Sequence[_Standing], known: Sequence[_Standing], room: _Room, steps: tuple[str, ...]
) -> Decision:
    best = min(_leaders(able), key=lambda one: one.option.time_ms)
    slower = sorted((one for one in able if one is not best), key=lambda one: one.option.time_ms)
    option = best.option
    return Decision(
        problem=problem,
        pattern=option.pattern,
        config=option.config,
        source=best.source,
        reason=_basis(best, problem),
        steps=steps,
        record=option.record,
        predicted_ms=option.time_ms,
        predicted_memory_bytes=option.memory.peak_bytes,
        memory_basis=option.memory.basis,
        confidence=option.confidence,
        margin=slower[0].option.time_ms / option.time_ms - 1 if slower else None,
        rejected=(
            *_without_room(known, room),
            *(one.rejected(format_ms(one.option.time_ms)) for one in slower),
        ),
    )


def _without_room(known: Iterable[_Standing], room: _Room) -> Iterator[Rejected]:
    """The options that need too much memory, or may not run now."""
    for one in known:
        if reason := room.refusal(one.option):
            yield one.rejected(reason)
        elif one.hindrance is not None:
            yield one.rejected(f"{format_ms(one.option.time_ms)}, but {one.hindrance}")


def _basis(best: _Standing, problem: Problem) -> str:
    """What a choice rests on."""
    option, source = best.option, best.source
    where = option.record.problem.key
    if option.confidence is not None:
        return f"{'won the search' if option.won else 'fastest that fits'} between measured lengths, the nearer {where}"
    rank = "won the search" if option.won else "fastest stored that fits"
    same = (option.record.problem, option.record.pattern) == (problem, option.pattern)
    scaled = "" if same else ", scaled by arithmetic"
    other = f", by torch {option.record.environment.torch_version}; run `autotune tune --reverify`"
    return f"{rank} at {where}{scaled}{other if source == 'unverified' else ''}"


def _leaders(able: Sequence[_Standing]) -> list[_Standing]:
    """The best option of each pattern."""
    leaders: dict[Pattern, _Standing] = {}
    for one in sorted(able, key=lambda one: one.rank):
        leaders.setdefault(one.option.pattern, one)
    return list(leaders.values())


def _applicable(problem: Problem, patterns: Sequence[Pattern]) -> list[Pattern]:
    """The patterns that are defined for the problem.

    Raises:
        PatternError: none is.
    """
    if not patterns:
        raise PatternError("accept is empty, but must name at least one pattern, such as Dense()")
    applicable: list[Pattern] = []
    refused: list[PatternError] = []
    for pattern in patterns:
        if not isinstance(pattern, Pattern):
            raise PatternError(f"pattern is {pattern!r}, but must be a pattern, such as Dense()")
        try:
            pattern.validate(problem)
            applicable.append(pattern)
        except PatternError as error:
            refused.append(error)
    if not applicable:
        raise refused[0]
    return applicable
