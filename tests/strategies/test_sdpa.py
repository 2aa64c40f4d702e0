"""Torch's own attention, backend by backend: what it leaves behind."""

import sys
import threading

import pytest
import torch

from autotune.strategies.catalog import STRATEGIES
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.problem import Problem

PROBLEM = Problem.self_attention(8, heads=1, head_dim=8)
THREADS, CALLS = 8, 200


def flags():
    """Which backends torch may choose from, in the whole process."""
    cuda = torch.backends.cuda
    return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]


@pytest.fixture
def _many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("backend", ["flash", "math"])
def test_threads_that_ask_for_a_backend_leave_torch_its_choice(backend):
    attend = STRATEGIES["sdpa"].build(PROBLEM, Dense(), Config.of("sdpa", backend=backend))
    start, before, tensors = threading.Barrier(THREADS), flags(), [torch.randn(1, 1, 8, 8) for _ in range(3)]
    expected, outputs = attend(*tensors), []

    def serve():
        start.wait()
        outputs.extend(attend(*tensors) for _ in range(CALLS))

    threads = [threading.Thread(target=serve) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == THREADS * CALLS
    assert all(torch.equal(out, expected) for out in outputs)
    assert flags() == before


def test_math_asks_torch_for_no_flags(monkeypatch):
    monkeypatch.setattr("autotune.strategies.sdpa.sdpa_kernel", None)
    attend = STRATEGIES["sdpa"].build(PROBLEM, Dense(), Config.of("sdpa", backend="math"))
    assert attend(*(torch.ones(1, 1, 8, 8) for _ in range(3))).shape == (1, 1, 8, 8)
