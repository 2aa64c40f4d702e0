"""A builder of hand-made records, and comparison with whole expected texts.

After a change of the reports that is meant, `UPDATE_EXPECTED=1 pytest tests/reports` writes the expected texts anew:
read their difference before committing it.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from autotune.db.records import Choice, Environment, Measurement, Rate, Record, Run, Status
from autotune.reports.published import read_published
from autotune.reports.source import Source
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense, Pattern
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.strategies.suite_extreme import EXTREME

EXPECTED = Path(__file__).parent / "expected"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GENERATED = datetime(2026, 1, 3, tzinfo=UTC)
GPU = Environment(
    device="cuda",
    device_name="Planted GPU",
    device_memory_bytes=8 * 2**30,
    capability="6.1",
    driver="550.1",
    cpu_name="Planted CPU",
    threads=2,
    torch_version="2.13.0",
    triton_version="3.5.0",
    cuda_version="12.8",
    python_version="3.11.7",
    platform="Linux",
)
CPU = replace(
    GPU, device="cpu", device_name="Planted CPU", capability="AVX2", driver="", triton_version="", cuda_version=""
)
BENCH = Run(command="autotune bench --suite extreme --lengths 4096,8192", started_at=START)
RUN = Run(command="autotune tune --lengths 4096,8192 --pattern dense", started_at=START)


class Book:
    """Records, choices and rates in the order they are added, a second apart."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.choices: list[Choice] = []
        self.rates: list[Rate] = []

    def source(self, **facts: object) -> Source:
        """What a report on the whole book is made of."""
        known = {"records": self.records, "choices": self.choices, "rates": self.rates}
        return Source(generated=GENERATED, **{**known, **facts})  # type: ignore[arg-type]

    def add(
        self,
        pattern: Pattern,
        config: Config,
        status: Status = Status.OK,
        *times: float,
        length: int = 4096,
        environment: Environment = GPU,
        run: Run = RUN,
        causal: bool = False,
        direction: str = "forward",
        times_ms: tuple[float, ...] = (),
        **facts: object,
    ) -> Record:
        """Add a measurement; one that is ok has an error, if not stated otherwise."""
        if status == Status.OK:
            facts = {"rel_error": 0.0005, **facts}
        record = Record(
            id=len(self.records) + 1,
            created_at=START + timedelta(seconds=len(self.records)),
            run=run,
            environment=environment,
            problem=Problem.self_attention(
                length, dtype="float16", device=environment.device, causal=causal, direction=direction
            ),
            pattern=pattern,
            config=config,
            measurement=Measurement(status=status, times_ms=times or times_ms, **facts),  # type: ignore[arg-type]
        )
        self.records.append(record)
        return record

    def choose(self, record: Record, margin: float | None = None, candidates: int = 1) -> Choice:
        """Add the decision for the configuration of a record."""
        choice = Choice(
            created_at=START + timedelta(hours=1, seconds=len(self.choices)),
            environment=record.environment,
            problem=record.problem,
            pattern=record.pattern,
            config=record.config,
            measurement_id=record.id,
            margin=margin,
            candidates=candidates,
        )
        self.choices.append(choice)
        return choice

    def measure(self, matmul_tflops: float, *, environment: Environment = GPU, dtype: str = "float16") -> Rate:
        """Add what the device reaches in plain operations."""
        rate = Rate(
            created_at=START + timedelta(minutes=len(self.rates)),
            run=RUN,
            environment=environment,
            dtype=dtype,
            matmul_flops_per_s=matmul_tflops * 1e12,
            copy_bytes_per_s=20e9,
        )
        self.rates.append(rate)
        return rate


@pytest.fixture
def book() -> Book:
    """An empty book."""
    return Book()


@pytest.fixture
def full_book(book: Book) -> Book:
    """Two devices, two settings, three families of functions, every status, one configuration measured twice."""
    sdpa, flex = Config.of("sdpa", backend="flash", compile="off"), Config.of("flex", block_m=128, compile="default")
    ring, sparse = Config.of("ring", chunk_size=1024), Config.of("block_sparse", compile="off")
    good: dict[str, object] = {"max_abs_error": 0.001, "compile_s": 1.5}
    window = LocalWindow(sparsity=0.9)

    book.add(Dense(), sdpa, Status.OK, 40.0, peak_memory_bytes=4 * 2**20, **good)
    again = Run(command="autotune tune --db 'a|b.db'", started_at=START + timedelta(hours=2))
    dense = book.add(Dense(), sdpa, Status.OK, 21.0, 20.0, 19.0, run=again, peak_memory_bytes=4 * 2**20, **good)
    book.add(Dense(), sdpa, Status.OOM, length=8192, reason="out of memory: asked for 9.0 GiB, the device has 8.0 GiB")
    book.add(
        Dense(), flex, Status.COMPILE_ERROR, reason="Traceback:\n  a | b\n\nTypeError: <class 'int'> has no `x`, __y__"
    )
    short = book.add(Dilated.longnet(4096), ring, Status.OK, 10.0, 9.0, 11.0, 10.0, peak_memory_bytes=6 * 2**20, **good)
    long = book.add(
        Dilated.longnet(8192), ring, Status.OK, 20.0, 24.0, length=8192, peak_memory_bytes=10 * 2**20, **good
    )
    book.add(Dilated.longnet(8192), Config.of("dilated"), Status.CRASHED, length=8192, signal=11, reason="SIGSEGV")
    book.add(Dilated((1024, 4096), (1, 2)), ring, Status.UNSUPPORTED, reason="needs compute capability 8.0, has 6.1")
    book.add(
        window, sparse, Status.WRONG_RESULT, rel_error=float("inf"), max_abs_error=float("nan"), reason="all zeros"
    )
    book.add(window, Config.of("flex", block_m=64), Status.TIMEOUT, reason="compiling took over 60 s")
    book.add(window, sparse, Status.SKIPPED, length=8192)
    book.add(Dense(), sdpa, Status.OK, 12.0, causal=True, **good)
    book.add(window, sparse, Status.OK, 0.0, environment=CPU)
    book.add(Dilated.longnet(4096), ring, Status.OK, 5.0, environment=CPU, rel_error=float("nan"))
    book.choose(dense, None, 2)
    book.choose(short, 0.05, 3)
    book.choose(short, 0.125, 7)
    book.choose(long, 0.0, 9)
    return book


@pytest.fixture
def suite_source(book: Book) -> Source:
    """A suite at two lengths beside published figures: one row too fast to be true, one all zeros, some not run."""
    missing = {("RingDilatedAttentionV2_r8", 8192), ("RingDilatedAttentionProduction_r16", 4096)}
    missing |= {("RingDilatedAttentionProduction_r16", 8192)}
    patterns: list[Pattern] = [Dense(), LocalWindow(0.9), LocalWindow(0.95)]
    for length in (4096, 8192):
        for pattern in (*patterns, Dilated.longnet(length)):
            problem = Problem.self_attention(length, dtype="float16", device="cuda")
            for place, each in enumerate(EXTREME.of(pattern)):
                facts = _suite_facts(each.name, length, length / 4096 * (40.0 - 2 * place) * pattern.density(problem))
                if (each.name, length) not in missing:
                    book.add(pattern, each.config(problem, pattern), length=length, run=BENCH, **facts)
    book.choose(book.add(Dense(), Config.of("flex"), Status.OK, 0.5))
    book.measure(20.0)
    book.measure(19.0)
    return book.source(suite=EXTREME, published=read_published(Path(__file__).parent / "published.csv"))


def _suite_facts(name: str, length: int, time_ms: float) -> dict[str, Any]:
    match name, length:
        case "Exact_SDPA", 8192:
            return {"status": Status.SKIPPED, "reason": "predicted 9.0 GiB, the limit is 8.0 GiB; --force runs it"}
        case "RingDilatedAttentionProduction_r1", 4096:
            return {"status": Status.WRONG_RESULT, "reason": "all zeros", "rel_error": 1.0}
        case "ImprovedDilatedAttention", 8192:
            time_ms = 0.5
    times_ms = (time_ms,) if length == 8192 else (time_ms, time_ms * 1.25, time_ms * 0.75)
    return {"times_ms": times_ms, "peak_memory_bytes": length * 1024, "max_abs_error": 0.001}


@pytest.fixture
def check() -> Callable[[str, str], None]:
    """Compare a text with the expected one of that name."""

    def compare(name: str, text: str) -> None:
        path = EXPECTED / name
        if os.environ.get("UPDATE_EXPECTED"):
            path.write_text(text, "utf-8")
        assert text == path.read_bytes().decode()

    return compare
