"""Peak memory is measured in a process of its own, as the worker does; limits too, for they would outlive the test."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident high-water marks and limits are Linux's")
MIB = 1 << 20
HEADER = """
import torch
from autotune.memory import lift_limit, limit_growth, watch_memory
torch.set_num_threads(1)
CPU, MIB = torch.device("cpu"), 1 << 20

def block(mib):
    return torch.ones(mib * MIB // 4)
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", HEADER + textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CALLS = {
    "output": ("block(64)", 64),
    "temporary": ("block(64).sum()", 64),
    "both": ("block(32) + block(32)", 96),
    "one after the other": ("(block(64).sum(), block(64).sum())", 64),
    "kept together": ("[block(8) for _ in range(8)]", 64),
    "view": ("inputs[::2]", 0),
    "in place": ("inputs.mul_(1.0)", 0),
}


@pytest.fixture(scope="module")
def peaks():
    """Every call above, measured twice over in one process."""
    calls = ", ".join(f"lambda: {call}" for call, _ in CALLS.values())
    lines = run(f"""
        inputs = block(64)
        calls = [{calls}]
        for _ in range(2):
            for call in calls:
                call()  # warm
                print(watch_memory(call, CPU)[1])
    """)
    figures = [int(line) for line in lines]
    return {name: figures[number :: len(CALLS)] for number, name in enumerate(CALLS)}


@pytest.mark.parametrize("name", CALLS)
def test_the_peak_of_a_known_call_is_within_two_percent(peaks, name):
    expected = CALLS[name][1] * MIB
    for measured in peaks[name]:
        assert abs(measured - expected) <= max(0.02 * expected, MIB // 2)


def test_growth_beyond_the_limit_fails_and_lifting_it_undoes_that():
    lines = run("""
        held = block(64)
        limit_growth(256 * MIB)
        print(block(128).numel())
        for attempt in (lambda: block(512), lambda: [block(16) for _ in range(64)]):
            try:
                attempt()
            except RuntimeError as error:
                print("can't allocate memory" in str(error))
        try:
            bytearray(b"x") * (512 * MIB)
        except MemoryError:
            print("MemoryError")
        print(block(128).numel())
        lift_limit()
        print(block(512).numel())
    """)
    numel = {mib: str(mib * MIB // 4) for mib in (128, 512)}
    assert lines == [numel[128], "True", "True", "MemoryError", numel[128], numel[512]]


@pytest.mark.slow
def test_the_limit_counts_from_where_it_is_set():
    lines = run("""
        for _ in range(2):
            held = block(300)
            limit_growth(200 * MIB)
            print(block(150).numel())
            lift_limit()
    """)
    assert lines == [str(150 * MIB // 4)] * 2


TRAINED = {
    "dilated": "Dilated((512, 2048, 8192), (1, 2, 4)), Config.of('dilated', compile='off')",
    "union": "Dilated((512, 2048, 8192), (1, 2, 4)), Config.of('dilated', keys='union', compile='off')",
    "copies": "Dilated((512, 2048, 8192), (1, 2, 4)), Config.of('dilated', reads='copies', compile='off')",
    "ring": "Dilated((512, 2048, 8192), (1, 2, 4)), Config.of('ring', chunk_size=4096, compile='off')",
    "block_sparse": "LocalWindow(0.95), Config.of('block_sparse', query_block=4096, compile='off')",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_memory_of_forward_and_backward_grows_no_faster_than_the_sequence(name):
    peaks = run(f"""
        from autotune.strategies.catalog import build
        from autotune.strategies.config import Config
        from autotune.strategies.pattern_block_sparse import LocalWindow
        from autotune.strategies.pattern_dilated import Dilated
        from autotune.strategies.problem import Problem

        for length in (8192, 32768):
            problem = Problem.self_attention(length, heads=4, head_dim=32, direction="training")
            inputs = [torch.randn(1, 4, length, 32, requires_grad=True) for _ in range(3)]
            grad = torch.randn(1, 4, length, 32)
            attention = build(problem, {TRAINED[name]})
            step = lambda: torch.autograd.grad(attention(*inputs), inputs, grad)
            step()
            print(watch_memory(step, CPU)[1])
    """)
    shorter, longer = map(int, peaks)
    assert longer <= 1.1 * 4 * shorter  # a tenth for what the heap keeps; quadratic growth would be 16 times
