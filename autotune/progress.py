"""Live progress of a tuning run: what runs, the best so far, the time left."""

import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autotune.cells import Cell
from autotune.db.records import Measurement, Status
from autotune.observer import CellResult, Observer
from autotune.strategies.config import Config
from autotune.strategies.pattern import Pattern
from autotune.strategies.problem import Problem
from autotune.units import format_bytes, format_ms

PHASES = {"compiling": "compile_s", "checking": "gate_s", "timing": "timing_s"}

Naming = Callable[[Problem, Pattern, Config], str | None]


class Progress(Observer):
    """One line for each cell and candidate; on a terminal, a live line with what runs now below them."""

    def __init__(self, console: Console, naming: Naming | None = None) -> None:
        """Print on a console, configurations by their own text or by their published names."""
        self._console = console
        self._naming = naming
        self._cell: Cell | None = None
        self._left_s: float | None = None
        self._live = Live(Text(), console=console, refresh_per_second=4, transient=True)
        self._running: str = ""
        self._since = time.monotonic()
        self._spent_s = 0.0
        self._done = 0
        self._left = 0
        self._cells_left = 0
        self._best: tuple[float, Config] | None = None
        self._phases: defaultdict[str, float] = defaultdict(float)  # seconds
        self._final_since: float | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.get_renderable = self._status_line  # type: ignore[method-assign]
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live.is_started:
            self._live.stop()

    def cell_started(self, cell: Cell, number: int, total: int, candidates: int) -> None:
        """Name the cell and how much there is to do."""
        self._cell, self._best, self._left, self._cells_left = cell, None, candidates, total - number
        self._phases.clear()
        self._final_since = None
        work = f"{candidates} configurations to measure" if candidates else "nothing new to measure"
        self._console.print(Text(f"[{number}/{total}] {cell.label}: {work}", style="bold"), soft_wrap=True)

    def candidate_started(self, config: Config) -> None:
        """Show what runs."""
        self._running, self._since = self._name(config), time.monotonic()

    def rates_started(self) -> None:
        """Say why nothing else happens."""
        self._console.print(Text("measuring what the device reaches in plain operations", style="dim"))

    def cells_awaited(self, cells: int) -> None:
        """Say what is waited for."""
        text = f"waiting for {cells} cells that other processes search; what they leave unfinished is done here"
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def device_awaited(self, device: str) -> None:
        """Say why things take longer."""
        text = f"another process measures on {device}: waiting, the two take turns"
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def reference_started(self, cell: Cell) -> None:
        """Say what the next measurement is for."""
        self._cell = cell
        text = f"reference: {cell.problem.query_len:,} tokens, {cell.problem.direction}"
        self._console.print(Text(text, style="bold"), soft_wrap=True)

    def time_left(self, seconds: float | None) -> None:
        """Show it instead of the average over the candidates so far."""
        self._left_s = seconds

    def candidate_finished(self, config: Config, measurement: Measurement) -> None:
        """Print the outcome."""
        self._spent_s += time.monotonic() - self._since
        self._done += 1
        self._left = max(0, self._left - 1)
        self._running = ""
        if self._final_since is None:  # afterwards the same phases are stored beside other times
            for phase, field in PHASES.items():
                self._phases[phase] += getattr(measurement, field) or 0.0
        if measurement.status is Status.OK and measurement.time_ms is not None:
            outcome = (
                f"{format_ms(measurement.time_ms):>10}  {format_bytes(measurement.peak_memory_bytes or 0):>10}  "
                f"error {measurement.rel_error or 0.0:.1e}"
            )
            if self._best is None or measurement.time_ms < self._best[0]:
                self._best = (measurement.time_ms, config)
        else:
            outcome = f"{measurement.status}: {measurement.reason.partition(chr(10))[0][:120]}"
        self._console.print(Text(f"    {self._name(config):<48} {outcome}"), soft_wrap=True)

    def final_started(self, finalists: int) -> None:
        """Say that the race is on."""
        self._running, self._since = f"final of {finalists}", time.monotonic()
        self._final_since = self._final_since or self._since
        self._console.print(Text(f"    final: the fastest {finalists}, timed in turn"), soft_wrap=True)

    def final_left_out(self, needed_s: float, left_s: float) -> None:
        """Say why there is no race, and what would give it."""
        text = (
            f"    no final: timing the fastest two in turn takes {needed_s:.1f} s, and there are "
            f"{max(0.0, left_s):.1f} s for it; a larger --effort or --budget, or the same command again, gives it more"
        )
        self._console.print(Text(text, style="dim"), soft_wrap=True)

    def final_failed(self, finalists: int) -> None:
        """Say that the race gave nothing."""
        text = f"    final: the race of {finalists} failed; who runs by itself is timed by itself"
        self._console.print(Text(text, style="red"), soft_wrap=True)

    def cell_finished(self, result: CellResult) -> None:
        """Print the winner."""
        # One of several cells that were finished together is named.
        where = "" if result.cell == self._cell else f" of {result.cell.label}"
        self._cell = result.cell
        self._print_phases()
        measurement = result.measurement
        if result.best is None or measurement is None or measurement.time_ms is None:
            text = f"    best{where}: nothing ran; see the reasons above, or `autotune report`"
            self._console.print(Text(text, style="red"), soft_wrap=True)
            return
        best = f"    best{where}: {self._name(result.best)}, {format_ms(measurement.time_ms)}"
        self._console.print(Text(best, style="green"), soft_wrap=True)

    def _print_phases(self) -> None:
        """Where the time of the cell went."""
        if self._final_since is not None:
            self._phases["in the final"] = time.monotonic() - self._final_since
        if any(self._phases.values()):
            spent = ", ".join(f"{seconds:.1f} s {phase}" for phase, seconds in self._phases.items())
            self._console.print(Text(f"    spent: {spent}", style="dim"), soft_wrap=True)
        self._phases.clear()
        self._final_since = None

    def _status_line(self) -> Text:
        if not self._running:
            return Text("    ...", style="dim")
        best = "none yet" if self._best is None else f"{self._name(self._best[1])} {format_ms(self._best[0])}"
        now = time.monotonic() - self._since
        return Text(f"    running {self._running} for {now:.0f} s | best: {best} | {self._left_text(now)}", style="dim")

    def _left_text(self, now_s: float) -> str:
        if self._left_s is not None:
            return f"about {max(0.0, self._left_s - now_s):.0f} s left"
        each = self._spent_s / self._done if self._done else 0.0
        left = f"about {each * self._left:.0f} s left here" if each else "time left unknown"
        return f"{left}, {self._cells_left} cells after it" if self._cells_left else left

    def _name(self, config: Config) -> str:
        """What a configuration is called here."""
        if self._naming is None or self._cell is None:
            return config.text
        return self._naming(self._cell.problem, self._cell.pattern, config) or config.text
