"""A worker that answers at once, so that the coordinator's own logic is what a test exercises."""

from collections.abc import Callable
from typing import ClassVar

from autotune.candidate import Candidate, Race
from autotune.db.records import Measurement, Status
from autotune.observer import Observer
from autotune.rates import Rates, RateTask
from autotune.shootout import Times

RATES = Rates(matmul_flops_per_s=1e18, copy_bytes_per_s=1e10)  # nothing that is planted is too fast for this machine


class StandIn:
    """Answers what the strategy's name says; counts what it was asked."""

    asked: ClassVar[list[Candidate]] = []
    asked_for_rates: ClassVar[list[RateTask]] = []
    answers: ClassVar[dict[str, Measurement | Callable[[Candidate], Measurement]]] = {}
    contests: ClassVar[list[Race]] = []
    races: ClassVar[dict[int, float]] = {}  # variant of the correct strategy to milliseconds; none run if empty
    failing: ClassVar[set[int]] = set()  # variants that end every race they are in

    def __init__(self, deadlines=None):
        self.deadlines = deadlines

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def measure(self, candidate: Candidate) -> Measurement:
        self.asked.append(candidate)
        plain = Measurement(status=Status.OK, times_ms=(1.0 + len(self.asked),), peak_memory_bytes=10, rel_error=0.0)
        answer = self.answers.get(candidate.config.strategy, plain)
        return answer(candidate) if callable(answer) else answer

    def rates(self, task: RateTask) -> Rates:
        self.asked_for_rates.append(task)
        return RATES

    def race(self, contest: Race) -> Times:
        self.contests.append(contest)
        variants = {candidate.config.integer("variant", 0) for candidate in contest.candidates}
        if not self.races or not variants.isdisjoint(self.failing):
            return []
        return [(self.races[candidate.config.integer("variant", 0)],) * 2 for candidate in contest.candidates]


class Recorder(Observer):
    """Notes every call in order; may do something after each measurement."""

    def __init__(self, after=lambda config, measurement: None):
        self.events = []
        self.finished = []
        self.planned = []
        self.left = []
        self.after = after

    def cell_started(self, cell, number, total, candidates):
        self.events.append(("cell", number, total))
        self.planned.append(candidates)

    def time_left(self, seconds):
        self.left.append(seconds)

    def candidate_started(self, config):
        self.events.append(("try", config))

    def candidate_finished(self, config, measurement):
        self.events.append(("done", config))
        self.finished.append((config, measurement))
        self.after(config, measurement)

    def final_started(self, finalists):
        self.events.append(("final", finalists))

    def final_left_out(self, needed_s, left_s):
        self.events.append(("left out", needed_s > left_s))

    def final_failed(self, finalists):
        self.events.append(("failed", finalists))

    def cell_finished(self, result):
        self.events.append(("decided", result.best))
