"""A suite of planted implementations, and how a stand-in worker answers for them."""

import planted
from stand_in import StandIn

from autotune.cells import Workload
from autotune.db.records import Measurement, Status
from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.suite import Implementation, Suite

WINDOW = LocalWindow(0.5, block_size=16)
BYTES_PER_TOKEN = 2 * 16 * 4  # what the planted strategies say they need: the output


class Refuses(planted.Planted):
    name = "refuses"

    def unsupported(self, problem, pattern):
        return "never does anything"


def implementation(name, config, pattern=None):
    """One row of a suite, dense unless a pattern is given."""
    function = pattern or Dense()
    return Implementation(
        name=name,
        definition=f"{name}.",
        serves=lambda served: served == function,
        config=lambda problem, pattern: config(problem),
    )


ALPHA = implementation("Alpha", lambda problem: Config.of("correct", variant=0))
BETA = implementation("Beta", lambda problem: Config.of("correct", variant=problem.kv_len))
GAMMA = implementation("Gamma", lambda problem: Config.of("zeros"), WINDOW)
DELTA = implementation("Delta", lambda problem: Config.of("refuses"))
SUITE = Suite(name="small", title="Small", implementations=(ALPHA, BETA, GAMMA))
WORKLOAD = Workload(lengths=(64, 128), patterns=("dense", WINDOW), heads=2, head_dim=16)


def suite(*implementations):
    return Suite(name="small", title="Small", implementations=implementations)


def took(time_ms, peak_bytes=10):
    """A right result in one repeat."""
    return Measurement(status=Status.OK, times_ms=(time_ms,), peak_memory_bytes=peak_bytes, rel_error=1e-7)


def growing(ms_at_64, power=2):
    """Takes so long at 64 tokens, and grows with a power of the length."""
    return lambda candidate: took(ms_at_64 * (candidate.problem.kv_len / 64) ** power)


def install(monkeypatch):
    """Have the planted strategies in the catalog, and nothing measured by a worker of one's own."""
    for strategy in (planted.CORRECT, planted.Zeros(), Refuses()):
        monkeypatch.setitem(STRATEGIES, strategy.name, strategy)
    monkeypatch.setattr("autotune.bench.Worker", StandIn)
    for name in ("asked", "asked_for_rates", "contests"):
        monkeypatch.setattr(StandIn, name, [])
    for name in ("answers", "races"):
        monkeypatch.setattr(StandIn, name, {})
    return StandIn
