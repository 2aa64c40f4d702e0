"""Peak memory before a run: the strategy's estimate, corrected by what runs of its like took."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, linear_regression

from autotune.db.records import Measurement, Record, Status
from autotune.strategies.catalog import STRATEGIES, refusal
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem

LEAST_BYTES = 8 << 20  # of a run that says something: resident memory is counted to some hundred KiB
TOLERANCE = 0.05  # estimates this near to every run stand as they are
SPREAD = 1.5  # between the estimates of two runs, for a line through them to be worth extending
MOST_RUNS = 8  # at a length

Family = tuple[str, ...]
Runs = Sequence[tuple[int, int]]  # (estimate, measured peak)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Peak memory as a line over the estimate.

    Args:
        fixed_bytes: what every call takes and no estimate counts.
        factor: on the estimate.
        largest: estimate of a run it rests on; beyond it nothing speaks for less than the estimate.
        lengths: of the runs it rests on.
    """

    fixed_bytes: float = 0.0
    factor: float = 1.0
    largest: int = 0
    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, runs: Runs, lengths: Iterable[int] = ()) -> "Calibration":
        """The line through the runs, which none of them exceeds by more than 5 %; its slope is that of the longest.

        Runs too much alike for a line only raise the estimate.

        >>> MIB = 1 << 20
        >>> Calibration.of([(10 * MIB, 12 * MIB), (50 * MIB, 52 * MIB)]).peak_bytes(1000 * MIB) / MIB
        1002.0
        """
        estimates, ratios = [estimate for estimate, _ in runs], [peak / estimate for estimate, peak in runs]
        largest = max(estimates)
        if all(abs(ratio - 1) <= TOLERANCE for ratio in ratios):
            return cls(largest=largest, lengths=tuple(lengths))
        long = [ratio for estimate, ratio in zip(estimates, ratios, strict=True) if estimate * SPREAD > largest]
        at_longest = max(fmean(long), (1 - TOLERANCE) * max(long))
        if len(long) == len(runs):
            return cls(factor=max(1.0, at_longest), largest=largest, lengths=tuple(lengths))
        slope = linear_regression([1 / estimate for estimate in estimates], ratios).intercept
        # Between what the longest took per estimated byte, beside which nothing is negative, and the estimate itself.
        factor = min(max(slope, 1.0), at_longest)
        fixed = fmean(peak - factor * estimate for estimate, peak in runs)
        least = max((1 - TOLERANCE) * peak - factor * estimate for estimate, peak in runs)
        return cls(max(0.0, fixed, least), factor, largest, tuple(lengths))

    def peak_bytes(self, estimate: int) -> int:
        """What a call of that estimate is expected to take."""
        peak = self.fixed_bytes + self.factor * estimate
        return round(peak if estimate <= self.largest else max(peak, (1 - TOLERANCE) * estimate))

    @property
    def basis(self) -> str:
        """What the prediction rests on, in a few words."""
        if not self.lengths:
            return "estimated"
        return f"estimated, calibrated at {' and '.join(f'{length:,}' for length in self.lengths)} tokens"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peak memory above the inputs, and what says so."""

    peak_bytes: int
    basis: str


class Calibrations:
    """What has run in one environment, by kernel, dtype and direction."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._runs: dict[Family, dict[int, list[_Run]]] = {}
        self._known: dict[Family, Calibration] = {}
        for record in records:
            self.note(record.problem, record.pattern, record.config, record.measurement)

    def note(self, problem: Problem, pattern: Pattern, config: Config, measurement: Measurement) -> None:
        """Take in a run, if its memory was measured."""
        peak = measurement.peak_memory_bytes
        if measurement.status is Status.OK and peak is not None and peak >= LEAST_BYTES:
            family = _family(problem, config)
            run = _Run(problem, pattern, config, peak)
            self._runs.setdefault(family, {}).setdefault(problem.kv_len, []).append(run)
            self._known.pop(family, None)

    def predicted(self, problem: Problem, config: Config, estimate: int) -> Prediction:
        """What a configuration will take, by the estimate of its strategy."""
        family = _family(problem, config)
        if family not in self._known:
            self._known[family] = self._calibration(family)
        calibration = self._known[family]
        peak_bytes = max(calibration.peak_bytes(estimate), min(estimate, problem.output_bytes))
        return Prediction(peak_bytes, calibration.basis)

    def _calibration(self, family: Family) -> Calibration:
        """From the latest runs at the shortest length, which tell what is fixed, and at the longest."""
        by_length = self._runs.get(family, {})
        lengths = sorted({min(by_length), max(by_length)}) if by_length else []
        known = {length: [run.pair for run in by_length[length][-MOST_RUNS:] if run.repeatable] for length in lengths}
        runs = [pair for pairs in known.values() for pair in pairs]
        return Calibration.of(runs, (length for length in lengths if known[length])) if runs else Calibration()


@dataclass(frozen=True, slots=True)
class _Run:
    problem: Problem
    pattern: Pattern
    config: Config
    peak: int

    @property
    def repeatable(self) -> bool:
        """Whether there still is such a configuration."""
        return refusal(self.problem, self.pattern, self.config) is None

    @property
    def pair(self) -> tuple[int, int]:
        return estimated_bytes(self.problem, self.pattern, self.config), self.peak


@lru_cache(maxsize=4096)
def estimated_bytes(problem: Problem, pattern: Pattern, config: Config) -> int:
    """The strategy's own estimate of the peak memory above the inputs."""
    return STRATEGIES[config.strategy].memory_bytes(problem, pattern, config)


def _family(problem: Problem, config: Config) -> Family:
    kernel = config.string("backend", ""), config.string("kernel", ""), config.string("compile", "off")
    return config.strategy, *kernel, problem.device, problem.kv_home, problem.dtype, problem.direction
