"""What a device reaches in plain operations, stored, and measurements held against it."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from autotune.db.records import Environment, Measurement, Rate, Status
from autotune.rates import RateTask
from autotune.worker import Tester

TRIES = 3  # at the peak, before a measurement above it is called wrong: the machine may have been busy with others

TYPICAL_FLOPS_PER_S = 1e12  # only their proportion matters, 50 operations a byte: candidates are ordered by it
TYPICAL_BYTES_PER_S = 2e10


class RateBook(Protocol):
    """What is needed of a store; see `Store`."""

    def rates(self, *, environment_fingerprint: str | None = None) -> list[Rate]:
        """Stored rates."""
        ...

    def add_rate(
        self,
        run_id: int,
        environment: Environment,
        dtype: str,
        matmul_flops_per_s: float,
        copy_bytes_per_s: float,
    ) -> int:
        """Store what a device reached."""
        ...


@dataclass(slots=True)
class DevicePeak:
    """The fastest matrix product of a device; on a shared machine the best of many runs counts."""

    store: RateBook
    worker: Tester
    run_id: int
    environment: Environment
    device: str
    dtype: str
    flops_per_s: float | None = field(init=False)  # None while it could not be measured
    bytes_per_s: float | None = field(init=False)  # likewise

    def __post_init__(self) -> None:
        stored = self.store.rates(environment_fingerprint=self.environment.fingerprint)
        alike = [rate for rate in stored if rate.dtype == self.dtype]
        self.flops_per_s = max((rate.matmul_flops_per_s for rate in alike), default=None)
        self.bytes_per_s = max((rate.copy_bytes_per_s for rate in alike), default=None)

    def measure(self) -> None:
        """Measure the device's rates once more, and store them."""
        rates = self.worker.rates(RateTask(device=self.device, dtype=self.dtype, threads=self.environment.threads))
        if rates is not None:
            matmul, copy = rates.matmul_flops_per_s, rates.copy_bytes_per_s
            self.store.add_rate(self.run_id, self.environment, self.dtype, matmul, copy)
            self.flops_per_s = max(self.flops_per_s or 0.0, matmul)
            self.bytes_per_s = max(self.bytes_per_s or 0.0, copy)

    def expected_ms(self, flops: float, moved_bytes: float) -> float:
        """Arithmetic and memory traffic at these rates, one after the other; typical ones if they are unknown."""
        flops_per_s, bytes_per_s = self.flops_per_s or TYPICAL_FLOPS_PER_S, self.bytes_per_s or TYPICAL_BYTES_PER_S
        return (flops / flops_per_s + moved_bytes / bytes_per_s) * 1e3

    def least_ms(self, flops: float) -> float:
        """What so many operations take at the least; 0 if the peak is unknown."""
        return flops / self.flops_per_s * 1e3 if self.flops_per_s else 0.0

    def checked(self, flops: float, measurement: Measurement) -> Measurement:
        """The measurement of a call of so many operations; a wrong result if it is faster than the device can be."""
        if measurement.status is not Status.OK or measurement.time_ms is None:
            return measurement
        for _ in range(TRIES):
            if measurement.time_ms >= self.least_ms(flops):
                return measurement
            self.measure()
        reached = flops / measurement.time_ms / 1e9
        reason = f"{reached:.3g} TFLOP/s is above the device's measured peak, {(self.flops_per_s or 0) / 1e12:.3g}"
        return replace(measurement, status=Status.WRONG_RESULT, reason=reason)
