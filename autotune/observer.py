"""Who wants to know what a run is doing."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.cells import Cell
from autotune.db.records import Measurement
from autotune.strategies.config import Config


@dataclass(frozen=True, slots=True)
class CellResult:
    """What is known about a cell when a run is done with it."""

    cell: Cell
    tried: Mapping[Config, Measurement]
    best: Config | None  # None where nothing ran, or nothing was to be chosen
    measured: int  # configurations measured now; the others were known

    @property
    def measurement(self) -> Measurement | None:
        """Of the best configuration."""
        return None if self.best is None else self.tried[self.best]


class Observer:
    """Told what happens during a run; this one does nothing with it."""

    def cell_started(self, cell: Cell, number: int, total: int, candidates: int) -> None:
        """A cell is next; at most ``candidates`` will be measured."""

    def rates_started(self) -> None:
        """The device's rates are measured, which takes some seconds."""

    def reference_started(self, cell: Cell) -> None:
        """Exact attention of this length is tried, for others to be held against it."""

    def time_left(self, seconds: float | None) -> None:
        """How long the rest of the run will take, if that can be told."""

    def cells_awaited(self, cells: int) -> None:
        """All cells that are left are being searched by other processes."""

    def device_awaited(self, device: str) -> None:
        """Another process measures on the device at the moment; the two take turns from now on."""

    def candidate_started(self, config: Config) -> None:
        """A configuration is measured next."""

    def candidate_finished(self, config: Config, measurement: Measurement) -> None:
        """A configuration has been measured, or skipped."""

    def final_started(self, finalists: int) -> None:
        """The fastest few are timed again, in turn."""

    def final_left_out(self, needed_s: float, left_s: float) -> None:
        """The fastest two cannot be timed in turn often enough; medians of the search decide, for now."""

    def final_failed(self, finalists: int) -> None:
        """One of them crashed, hung or took too much while they were timed in turn."""

    def cell_finished(self, result: CellResult) -> None:
        """A cell is done."""
