"""What is expected of configurations before they are measured: where a search begins, and in which order it goes on."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autotune.cells import Cell
from autotune.db.records import Environment, Record, Status
from autotune.device_rates import DevicePeak
from autotune.forecast import Known, same_kind
from autotune.strategies.config import Config
from autotune.strategies.strategy import Strategy

LEADERS = 5  # of another length or device, tried right after the default


@dataclass(frozen=True, slots=True)
class Prior:
    """What other lengths, other devices and the device's rates say about a cell.

    Args:
        cell: what is searched.
        strategies: by name.
        peak: what the device reaches in plain operations.
        nearest: what each configuration did at the nearest length that has been tuned, here.
        elsewhere: what each configuration did in this very cell, in another environment.
    """

    cell: Cell
    strategies: Mapping[str, Strategy]
    peak: DevicePeak
    nearest: Mapping[Config, Known]
    elsewhere: Mapping[Config, Known]

    @classmethod
    def of(
        cls,
        cell: Cell,
        strategies: Mapping[str, Strategy],
        peak: DevicePeak,
        environment: Environment,
        records: Iterable[Record],
    ) -> "Prior":
        """Look at what is stored of the same kind of problem."""
        timed = [r for r in records if r.measurement.status is Status.OK and r.measurement.time_ms]
        here = [r for r in timed if r.environment == environment and same_kind(r, cell)]
        there = [r for r in timed if r.environment != environment]
        there = [r for r in there if (r.problem, r.pattern) == (cell.problem, cell.pattern)]
        return cls(cell, strategies, peak, _nearest(here, cell), _most_alike(there, environment))

    def leaders(self, among: Container[Config], *, elsewhere_only: bool = False) -> list[Config]:
        """The fastest few at the nearest length, then those of the other environment."""
        found: dict[Config, None] = {}
        for known in (self.elsewhere,) if elsewhere_only else (self.nearest, self.elsewhere):
            ranked = sorted((config for config in known if config in among), key=lambda config: _time_ms(known[config]))
            found |= dict.fromkeys(ranked[:LEADERS])
        return list(found)

    def expected_ms(self, config: Config) -> float:
        """From the same configuration at the nearest length, else from what it computes and keeps in memory."""
        if (known := self.nearest.get(config)) is not None:
            return known.predicted_ms(self.cell) or math.inf
        strategy, problem, pattern = self.strategies[config.strategy], self.cell.problem, self.cell.pattern
        flops = strategy.flops(problem, pattern, config)
        return self.peak.expected_ms(flops, strategy.memory_bytes(problem, pattern, config))


def _nearest(records: Sequence[Record], cell: Cell) -> dict[Config, Known]:
    """The latest of each configuration, at the length with the smallest ratio to the cell's."""

    def distance(record: Record) -> float:
        return abs(math.log2(record.problem.kv_len / cell.problem.kv_len))

    others = [record for record in records if record.problem.kv_len != cell.problem.kv_len]
    least = min(map(distance, others), default=0.0)
    return {r.config: Known(r.problem, r.pattern, r.measurement) for r in others if distance(r) == least}


def _most_alike(records: Sequence[Record], environment: Environment) -> dict[Config, Known]:
    """The latest of each configuration in one other environment: the same device if possible, and the newest."""
    if not records:
        return {}
    alike = max(records, key=lambda r: (r.environment.device_name == environment.device_name, r.created_at)).environment
    return {r.config: Known(r.problem, r.pattern, r.measurement) for r in records if r.environment == alike}


def _time_ms(known: Known) -> float:
    assert known.time_ms is not None
    return known.time_ms
