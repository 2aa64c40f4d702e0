"""What fails is not tried again: the next most frugal, or the next fastest, takes over, and says why."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Dense, binding, current
from autotune.decision import NothingFitsError
from autotune.knowledge import AutotuneWarning
from autotune.strategies.errors import UnsupportedError

from .ladder import AUTO, MATH, OOM, PROBLEM, RING, ladder, plant, uncompiled
from .ladder import tensors as make_tensors
from .records import MIB

ASKED = binding.Asked(is_causal=False, enable_gqa=False, patterns=(Dense(),), memory_limit=None)
pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    ladder(tmp_path / "t.db")
    current.reload()
    yield
    current.reload()


@pytest.fixture
def tensors():
    return make_tensors()


@pytest.fixture
def failing(monkeypatch):
    return plant(monkeypatch)


@pytest.mark.parametrize(
    "error", [RuntimeError(OOM), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=repr
)
def test_when_memory_runs_out_the_next_most_frugal_runs_and_is_remembered(database, tensors, failing, error):
    errors, called = failing
    errors[MATH] = error
    out = autotune.attention(*tensors)
    assert torch.allclose(out, scaled_dot_product_attention(*tensors), atol=1e-5)
    assert called == [MATH, RING]
    autotune.attention(*tensors)
    assert called == [MATH, RING, RING]
    decision = autotune.explain(*tensors)
    assert decision.config == RING
    (rejected,) = [one for one in decision.rejected if one.config == MATH]
    assert rejected.reason == "needs 30.00 MiB (measured), no less than what ran out of memory here"


def test_memory_may_run_out_later(database, tensors, failing):
    errors, called = failing
    autotune.attention(*tensors)
    errors[MATH] = RuntimeError(OOM)
    autotune.attention(*tensors)
    autotune.attention(*tensors)
    assert called == [MATH, MATH, RING, RING]


@pytest.fixture
def frugal(tmp_path, monkeypatch):
    """What is measured needs less than the estimate of anything else."""
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "frugal.db"))
    ladder(tmp_path / "frugal.db", unit_mib=1 / 1024)
    current.reload()
    yield
    current.reload()


def test_only_where_nothing_fits_the_caller_sees_an_error_that_names_the_smallest_need(frugal, tensors, failing):
    errors, called = failing
    errors.update({config: RuntimeError(OOM) for config in (MATH, RING, AUTO)})
    with pytest.raises(NothingFitsError, match=r"memory ran out, and the most frugal .* needs 1\.00 KiB") as caught:
        autotune.attention(*tensors)
    assert OOM in str(caught.value.__cause__)
    assert called == [MATH, RING, AUTO]


def test_memory_may_be_free_again_after_nothing_fitted(frugal, tensors, failing):
    errors, called = failing
    errors.update({config: RuntimeError(OOM) for config in (MATH, RING, AUTO)})
    with pytest.raises(NothingFitsError):
        autotune.attention(*tensors)
    errors.clear()
    autotune.attention(*tensors)
    assert called[-1] == MATH


@pytest.fixture
def machine(monkeypatch):
    """Free memory and the time, to be set."""

    class Machine:
        free, now_s = 1000 * MIB, 100.0

    monkeypatch.setattr(binding, "free_memory_bytes", lambda device: Machine.free)
    monkeypatch.setattr(binding.time, "monotonic", lambda: Machine.now_s)
    return Machine


@pytest.mark.parametrize("shortage", ["seen", "felt"])
def test_what_runs_while_memory_is_short_is_decided_again(database, tensors, failing, machine, shortage):
    errors, called = failing
    machine.free = 25 * MIB if shortage == "seen" else 40 * MIB
    if shortage == "felt":
        errors[MATH] = RuntimeError(OOM)
    autotune.attention(*tensors)
    assert called.pop() == RING
    errors.clear()
    machine.free = 1000 * MIB
    autotune.attention(*tensors)
    assert called.pop() == RING  # not at every call
    machine.now_s += binding.RECONSIDERED_S
    autotune.attention(*tensors)
    autotune.attention(*tensors)
    assert called[-2:] == [MATH, MATH]


def test_what_ran_out_is_not_tried_again_with_as_little_memory_free(database, tensors, failing, machine):
    errors, called = failing
    errors[MATH] = RuntimeError(OOM)
    for _ in range(3):
        autotune.attention(*tensors)
        machine.now_s += binding.RECONSIDERED_S
        machine.free += MIB
    assert called == [MATH, RING, RING, RING]


def test_nothing_faster_is_waited_for_where_the_caller_set_the_limit(database, tensors, machine):
    (attend,) = _entries(tensors, memory_limit=25 * MIB)
    machine.now_s += 10 * binding.RECONSIDERED_S
    attend(*tensors)
    assert autotune.explain(*tensors, memory_limit=25 * MIB).config == RING


def _entries(tensors, **options):
    autotune.attention(*tensors, **options)
    return current.table().calls.values()


def test_a_late_failure_is_not_blamed_on_the_successor(database, tensors, failing):
    autotune.attention(*tensors)
    table = current.table()
    ((call, attend),) = table.calls.items()
    table.withdraw(call, attend, PROBLEM, RuntimeError(OOM))
    autotune.attention(*tensors)
    table.withdraw(call, attend, PROBLEM, RuntimeError(OOM))  # of another thread, that was still at it
    assert autotune.explain(*tensors).config == RING
    assert autotune.attention(*tensors) is not None
    assert failing[1] == [MATH, RING, RING]


def test_a_ceiling_never_rises(database, tensors, failing):
    table = current.table()
    first, second = (table.bind(ASKED, *tensors) for _ in range(2))
    table._learn(first, RuntimeError(OOM))
    third = table.bind(ASKED, *tensors)
    assert third.decision.config == RING
    table._learn(third, RuntimeError(OOM))
    table._learn(second, RuntimeError(OOM))  # the larger one's, late
    assert table.bind(ASKED, *tensors).decision.config == AUTO


def test_eight_threads_that_run_out_at_once_fall_one_step(database, failing):
    errors, called = failing
    autotune.attention(*make_tensors())
    errors[MATH] = RuntimeError(OOM)
    start = threading.Barrier(8)

    def call(_):
        x, y, z = make_tensors()
        start.wait()
        return torch.allclose(autotune.attention(x, y, z), scaled_dot_product_attention(x, y, z), atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))
    assert set(called) == {MATH, RING}
    assert autotune.explain(*make_tensors()).config == RING


NO_KERNEL = RuntimeError("No available kernel. Aborting execution.\nmore")


def test_what_cannot_run_here_is_ruled_out_visibly(database, tensors, failing):
    errors, called = failing
    errors[MATH] = NO_KERNEL
    with pytest.warns(AutotuneWarning, match="math.* failed here: RuntimeError: No available kernel"):
        out = autotune.attention(*tensors)
    assert torch.allclose(out, scaled_dot_product_attention(*tensors), atol=1e-5)
    autotune.attention(*tensors)
    assert called == [MATH, RING, RING]
    decision = autotune.explain(*tensors)
    (rejected,) = [one for one in decision.rejected if one.config == MATH]
    assert rejected.reason.endswith("but failed here: RuntimeError: No available kernel. Aborting execution.")


def test_what_ran_and_then_fails_is_ruled_out_too(database, tensors, failing):
    errors, called = failing
    autotune.attention(*tensors)
    errors[MATH] = NO_KERNEL
    autotune.attention(*tensors)
    autotune.attention(*tensors)
    assert called == [MATH, MATH, RING, RING]


def test_what_cannot_be_built_is_ruled_out(database, tensors, monkeypatch):
    build = binding.build

    def refuse(problem, pattern, config):
        if config == MATH:
            raise UnsupportedError("head_dim is 8")
        return build(problem, pattern, config)

    monkeypatch.setattr(binding, "build", refuse)
    assert autotune.explain(*tensors).config == RING
    autotune.attention(*tensors)


def test_an_error_of_what_was_not_measured_too_is_the_callers_and_rules_nothing_out(database, tensors, failing):
    errors, called = failing
    errors.update({config: RuntimeError("something else") for config in (MATH, RING, AUTO, *uncompiled())})
    with pytest.raises(RuntimeError, match="something else"):
        autotune.attention(*tensors)
    assert called[:3] == [MATH, RING, AUTO]
    assert len(called) == 4
    errors.clear()
    autotune.attention(*tensors)
    assert called[-1] == MATH


def test_an_error_that_no_configuration_can_remedy_is_the_callers(database, tensors, failing):
    errors, called = failing
    errors[MATH] = TypeError("something else")
    with pytest.raises(TypeError, match="something else"):
        autotune.attention(*tensors)
    assert called == [MATH]
