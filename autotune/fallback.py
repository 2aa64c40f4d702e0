"""The last rung of the ladder: no measurement says what to run, so the default does, or what needs less memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.calibration import Prediction
from autotune.db.records import Status
from autotune.decision import NothingFitsError
from autotune.prediction import Evidence
from autotune.standing import Hindrance, Room, Standing
from autotune.strategies.catalog import default_config, supported
from autotune.strategies.compiling import OFF
from autotune.strategies.config import Config
from autotune.strategies.errors import UnsupportedError
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes

CIRCUMSTANTIAL = (Status.OOM, Status.TIMEOUT, Status.SKIPPED)  # what failed like that may do with other limits


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A configuration of which only the estimate of its strategy is known."""

    pattern: Pattern
    config: Config
    memory: Prediction


@dataclass(frozen=True, slots=True)
class Fallback:
    """What could run of the accepted patterns although nothing that is known does.

    Args:
        problem: what is to be computed.
        patterns: the functions the caller accepts, the preferred one first.
        known: what was measured, and has no room or may not run.
        evidence: what failed here, and how estimates of memory are corrected.
        room: how much memory there is.
        hindrance: why a configuration may not run just now.
    """

    problem: Problem
    patterns: Sequence[Pattern]
    known: Sequence[Standing]
    evidence: Evidence
    room: Room
    hindrance: Hindrance

    def choose(self) -> Unmeasured:
        """The first that fits and may run: of each pattern the default, then what is uncompiled, then the rest.

        Where all that fits would compile a graph for this length only, that is what runs.

        Raises:
            NothingFitsError: none fits.
            UnsupportedError: no strategy can do any of the patterns, or what fits may not run now.
        """
        needs = [one.option.memory for one in self.known]
        waiting: list[Unmeasured] = []
        for candidate in self._candidates():
            needs.append(candidate.memory)
            if not self.room.fits(candidate.pattern, candidate.memory.peak_bytes):
                continue
            if self.hindrance(candidate.pattern, candidate.config, False) is None:
                return candidate
            waiting.append(candidate)
        for candidate in waiting:
            if self.hindrance(candidate.pattern, candidate.config, True) is None:
                return candidate
        if not needs:
            self._raise_unsupported()
        if waiting:
            raise UnsupportedError(self._all_hindered(waiting[0]))
        raise NothingFitsError(self._nothing_fits(min(need.peak_bytes for need in needs)))

    def _candidates(self) -> Iterator[Unmeasured]:
        """Everything that was not ruled out by a measurement of this problem."""
        ruled_out = {(one.option.pattern, one.option.config) for one in self.known if one.hindrance is None}
        for pattern in self.patterns:
            failed = self.evidence.failures(self.problem, pattern)
            for config in sorted(_by_preference(self.problem, pattern), key=failed.__contains__):
                record = failed.get(config)
                if (pattern, config) in ruled_out or (record and record.measurement.status not in CIRCUMSTANTIAL):
                    continue
                yield Unmeasured(pattern, config, self.evidence.memory(self.problem, pattern, config))

    def _raise_unsupported(self) -> None:
        """Raise the error that says what each strategy lacks, or that nothing is left."""
        for pattern in self.patterns:
            default_config(self.problem, pattern)
        labels = " or ".join(pattern.label for pattern in self.patterns)
        raise UnsupportedError(
            f"every configuration of {labels} failed when it was measured for {self.problem.key}; "
            "accept another pattern, or run `autotune tune --force`"
        )

    def _all_hindered(self, first: Unmeasured) -> str:
        reason = self.hindrance(first.pattern, first.config, True)
        return f"{first.config.text} is all that fits for {first.pattern.label}, but {reason}"

    def _nothing_fits(self, least_bytes: int) -> str:
        remedy = "raise the limit, free memory or accept another pattern"
        untuned = "" if self.known else "; nothing is tuned, so also run `autotune tune`"
        most_frugal = "the most frugal configuration of the accepted patterns"
        return f"{self.room.text} {most_frugal} needs {format_bytes(least_bytes)}; {remedy}{untuned}"


def _by_preference(problem: Problem, pattern: Pattern) -> list[Config]:
    """The default, then what is uncompiled, then the defaults of strategies that always compile."""
    spaces = [strategy.space(problem, pattern) for strategy in supported(problem, pattern).values()]
    plain = [config for space in spaces for config in space if config.string("compile", OFF) == OFF]
    defaults = [space.default for space in spaces]
    return list(dict.fromkeys([*defaults[:1], *plain, *defaults[1:]]))
