"""Turns: of the processes at work on one database, one at a time measures on a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from autotune.candidate import Candidate, Race
from autotune.db.records import Measurement
from autotune.db.store import Store
from autotune.environment import device_identity, free_memory_bytes
from autotune.history import GROWTH_SHARE
from autotune.observer import Observer
from autotune.rates import Rates, RateTask
from autotune.shootout import Times
from autotune.worker import Tester


@dataclass(slots=True)
class InTurn:
    """A worker that begins when nobody else measures on its device; others go on between two of its answers."""

    worker: Tester
    store: Store
    device: torch.device
    observer: Observer
    _said: bool = field(default=False, init=False)

    def measure(self, candidate: Candidate) -> Measurement:
        """Try a candidate, whatever happens."""
        with self._turn() as waited:
            return self.worker.measure(self._as_of_now(candidate) if waited else candidate)

    def race(self, contest: Race) -> Times:
        """Time candidates in turn; empty if one of them fails after all."""
        with self._turn() as waited:
            now = tuple(map(self._as_of_now, contest.candidates)) if waited else contest.candidates
            return self.worker.race(replace(contest, candidates=now))

    def rates(self, task: RateTask) -> Rates | None:
        """What the device reaches in plain operations; None if even those do not run."""
        with self._turn():
            return self.worker.rates(task)

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Have the device to oneself; whether that took waiting, which is said once."""
        name = f"measurements on {device_identity(self.device)}"
        with self.store.claim(name) as ours:
            if ours:
                yield False
                return
        if not self._said:
            self._said = True
            self.observer.device_awaited(str(self.device))
        with self.store.claim(name, wait=True):
            yield True

    def _as_of_now(self, candidate: Candidate) -> Candidate:
        """The candidate with the memory that is free now: what another process measured had some of it before."""
        free = int(GROWTH_SHARE * free_memory_bytes(self.device))
        return replace(candidate, growth_limit_bytes=max(candidate.growth_limit_bytes, free))
