"""The run-time choice: the fastest known configuration that fits, and why."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from autotune.db.records import Choice, Environment, Record
from autotune.decision import Decision, Rejected, Source
from autotune.fallback import Fallback, Unmeasured
from autotune.prediction import Evidence, Option
from autotune.standing import Hindrance, Room, Standing, fastest_of, free_to_run
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

Ask = Callable[[Problem, Pattern], list[Option]]


@dataclass(frozen=True, slots=True)
class _Inquiry:
    """What is asked of every rung of the ladder."""

    problem: Problem
    room: Room
    hindrance: Hindrance

    def standing(self, option: Option, source: Source) -> Standing:
        """Where an option stands."""
        hindrance = self.hindrance(option.pattern, option.config, source == "measured")
        return Standing(option, source, self.room.refusal(option), hindrance)


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
        inquiry = _Inquiry(problem, Room(memory_limit_bytes, ceilings), hindrance)
        steps: list[str] = []
        known = [one for pattern in patterns for one in self._climb(inquiry, pattern, steps)]
        rejected = [*_failed(self._measured, problem, patterns), *_refused(problem, patterns)]
        if any(one.able for one in known):
            return _decision(problem, known, tuple(steps), rejected)
        fallback = Fallback(problem, patterns, known, self._measured, inquiry.room, hindrance)
        return _default(problem, fallback.choose(), known, steps, rejected)

    def _climb(self, inquiry: _Inquiry, pattern: Pattern, steps: list[str]) -> list[Standing]:
        """What is known of a pattern, down to the first rung of which something may run; what each rung said is a step.

        A configuration stands as the first rung that knows it says.
        """
        rungs: tuple[tuple[Source, Ask, str], ...] = (
            ("measured", self._measured.measured, "this very problem"),
            ("interpolated", self._measured.interpolated, "lengths on both sides of this one"),
            ("neighbour", self._measured.neighbour, "any problem like it"),
            ("unverified", partial(_all_of, self._unverified), "this device with other software"),
            ("shipped", partial(_all_of, self._shipped), "this device and pattern"),
        )
        known: dict[Config, Standing] = {}
        failed = self._measured.failures(inquiry.problem, pattern)
        for source, ask, where in rungs:
            options = [option for option in ask(inquiry.problem, pattern) if option.config not in {**known, **failed}]
            found = {option.config: inquiry.standing(option, source) for option in options}
            known |= found
            if not found:
                steps.append(f"{source}: none of {pattern.label} for {where}")
                continue
            if any(one.able for one in found.values()):
                steps.append(f"{source}: {len(found)} of {pattern.label}")
                break
            steps.append(f"{source}: {len(found)} of {pattern.label}, none of which fits and may run")
        return list(known.values())


def _by_other_software(taken: Environment, here: Environment) -> bool:
    return taken != here and taken.is_same_device(here)


def _all_of(evidence: Evidence, problem: Problem, pattern: Pattern) -> list[Option]:
    """What the evidence says, one way or another."""
    return (
        evidence.measured(problem, pattern)
        or evidence.interpolated(problem, pattern)
        or evidence.neighbour(problem, pattern)
    )


def _default(
    problem: Problem, chosen: Unmeasured, known: Sequence[Standing], steps: Sequence[str], rejected: Sequence[Rejected]
) -> Decision:
    """The decision where the last rung has decided."""
    untuned = "nothing is tuned for this device and pattern; run `autotune tune`"
    unfit = "no measured configuration fits and may run now, and this one is estimated to fit"
    return Decision(
        problem=problem,
        pattern=chosen.pattern,
        config=chosen.config,
        source="default",
        reason=unfit if known else untuned,
        steps=(*steps, f"default: of {chosen.pattern.label}"),
        predicted_memory_bytes=chosen.memory.peak_bytes,
        memory_basis=chosen.memory.basis,
        rejected=(*(one.rejected() for one in known), *rejected),
    )


def _decision(
    problem: Problem, known: Sequence[Standing], steps: tuple[str, ...], rejected: Sequence[Rejected]
) -> Decision:
    able = [one for one in known if one.able]
    best = fastest_of(able)
    slower = sorted((one for one in able if one is not best), key=lambda one: one.time_ms)
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
        margin=slower[0].time_ms / option.time_ms - 1 if slower else None,
        rejected=(*(one.rejected() for one in known if not one.able), *(one.rejected() for one in slower), *rejected),
    )


def _failed(evidence: Evidence, problem: Problem, patterns: Sequence[Pattern]) -> Iterator[Rejected]:
    """What did not do when it was measured."""
    for pattern in patterns:
        for config, record in evidence.failures(problem, pattern).items():
            measurement = record.measurement
            where = "" if record.problem == problem else f" at {record.problem.key}"
            why = f": {measurement.reason}" if measurement.reason else ""
            yield Rejected(pattern=pattern, config=config, reason=f"{measurement.status}{where}{why}")


def _refused(problem: Problem, patterns: Sequence[Pattern]) -> Iterator[Rejected]:
    """The strategies that compute a pattern, but cannot do it for this problem."""
    plainest = replace(problem, dtype="float32", direction="forward", head_dim=64, kv_home="device")
    for pattern in patterns:
        for name, strategy in STRATEGIES.items():
            reason = strategy.refusal(problem, pattern)
            if reason is not None and strategy.refusal(plainest, pattern) is None:
                yield Rejected(pattern=pattern, config=Config.of(name), reason=reason)


def _basis(best: Standing, problem: Problem) -> str:
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
