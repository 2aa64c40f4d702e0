"""Real databases in temporary folders, and processes that write to them."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.db.records import Environment, Measurement, Status
from autotune.db.store import Store
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # for the helper beside these tests: `--import-mode=importlib` leaves it alone
    sys.path.append(HERE)

ENVIRONMENT = Environment(
    device="cpu",
    device_name="Some CPU",
    device_memory_bytes=1 << 42,
    capability="AVX512",
    driver="",
    cpu_name="Some CPU",
    threads=2,
    torch_version="2.13.0",
    triton_version="",
    cuda_version="",
    python_version="3.11.7",
    platform="Linux",
)
PROBLEM = Problem.self_attention(4096)
CONFIG = Config.of("sdpa", backend="flash")
MEASUREMENT = Measurement(status=Status.OK, times_ms=(2.0, 1.0, 3.0))


@pytest.fixture(scope="session")
def environment() -> Environment:
    return ENVIRONMENT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "autotune.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


@pytest.fixture
def add() -> Callable[..., int]:
    """Add a measurement of which the test names only what matters to it."""

    def add(
        store: Store,
        *,
        run_id=None,
        environment=ENVIRONMENT,
        problem=PROBLEM,
        pattern=None,
        config=CONFIG,
        measurement=MEASUREMENT,
    ) -> int:
        run_id = store.begin_run("autotune tune") if run_id is None else run_id
        return store.add(run_id, environment, problem, pattern or Dense(), config, measurement)

    return add


@pytest.fixture
def add_rate() -> Callable[..., int]:
    """Add a rate of which the test names only what matters to it."""

    def add_rate(
        store: Store,
        *,
        run_id=None,
        environment=ENVIRONMENT,
        dtype="float32",
        matmul_flops_per_s=1.5e12,
        copy_bytes_per_s=2.5e10,
    ) -> int:
        run_id = store.begin_run("autotune tune") if run_id is None else run_id
        return store.add_rate(run_id, environment, dtype, matmul_flops_per_s, copy_bytes_per_s)

    return add_rate


@pytest.fixture
def in_processes() -> Callable[..., list[int | None]]:
    """Run a function in forked processes that begin at the same moment; gives their exit codes."""
    # Forked, because importing torch anew takes seconds.
    context = multiprocessing.get_context("fork")

    def run(work: Callable[[int], object], count: int = 1) -> list[int | None]:
        start = context.Barrier(count)

        def begin(number: int) -> None:
            start.wait()
            work(number)

        processes = [context.Process(target=begin, args=(number,)) for number in range(count)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        return [process.exitcode for process in processes]

    return run
