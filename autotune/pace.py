"""How far a tuning run is, and how long the rest will take."""

import time
from dataclasses import dataclass

SEARCH_SHARE = 0.8  # of a cell's time; the rest is for the final


@dataclass(frozen=True, slots=True)
class Place:
    """A cell's place in a run, and what it may take."""

    number: int  # from one
    total: int
    started: float  # of the monotonic clock
    deadline: float  # likewise

    @property
    def search_deadline(self) -> float:
        """When no new candidate is begun.

        >>> Place(1, 2, started=10.0, deadline=20.0).search_deadline
        18.0
        """
        return self.started + SEARCH_SHARE * (self.deadline - self.started)


@dataclass(slots=True)
class Pace:
    """The average time of the candidates so far, applied to those to come."""

    left: int  # candidates of this cell
    after: int  # candidates of the cells after it, at most
    deadline: float  # of the whole run
    started: float  # when the first of them was
    done: int = 0

    def step(self) -> None:
        """One candidate more is done."""
        self.done += 1
        self.left -= 1

    def left_s(self) -> float | None:
        """Seconds until the run ends; None while nothing is known.

        >>> Pace(left=3, after=0, deadline=float("inf"), started=0.0).left_s()
        """
        now = time.monotonic()
        remaining = self.deadline - now
        if self.done:
            remaining = min(remaining, (now - self.started) / self.done * (self.left + self.after))
        return None if remaining == float("inf") else max(0.0, remaining)
