"""Independent live searches of one cell agree."""

import pytest
import torch

from autotune.candidate import Candidate, Race
from autotune.cells import Workload
from autotune.environment import free_memory_bytes
from autotune.separation import time_ratio
from autotune.strategies.catalog import STRATEGIES
from autotune.tuning import tune
from autotune.worker import Worker

WORKLOAD = Workload(lengths=(5000,), patterns=("dense",), heads=1, head_dim=16)
RUNS = 10


@pytest.mark.slow
def test_ten_searches_choose_the_same_or_what_is_as_fast(tmp_path):
    (cell,) = WORKLOAD.cells(torch.device("cpu"))
    results = [
        tune(WORKLOAD, device="cpu", strategies=["sdpa", "ring"], effort="quick", db=tmp_path / f"{number}.db")
        for number in range(RUNS)
    ]
    assert [len(result) for result in results] == [1] * RUNS
    chosen = list(dict.fromkeys(result.best for (result,) in results))
    assert None not in chosen
    candidates = tuple(
        Candidate(
            device="cpu",
            problem=cell.problem,
            pattern=cell.pattern,
            strategy=STRATEGIES[config.strategy],
            config=config,
            threads=torch.get_num_threads(),
            growth_limit_bytes=free_memory_bytes(cell.device),
        )
        for config in chosen
    )
    with Worker() as worker:
        times = worker.race(Race(candidates=candidates, rounds=40, budget_s=60.0))
    assert len(times) == len(chosen)
    fastest = min(times, key=lambda each: sorted(each)[len(each) // 2])
    ratios = {config.text: time_ratio(each, fastest) for config, each in zip(chosen, times, strict=True)}
    print(ratios)
    assert not [text for text, ratio in ratios.items() if ratio.slower]
