"""When memory runs out the next most frugal configuration takes over, and graphs are few."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, LocalWindow, Problem, binding, graphs, knowledge, runtime
from autotune.db.store import Store
from autotune.decision import NothingFitsError
from autotune.graphs import GRAPHS_PER_CONFIG, Graphs, graph_of
from autotune.strategies.problem import Problem as Shape

from .records import MIB, fill, ok

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
DENSE = Dense()
MATH = Config.of("sdpa", backend="math", compile="off")
RING = Config.of("ring", chunk_size=20, compile="off", query_block=0)
AUTO = Config.of("sdpa", backend="auto", compile="off")
STATIC = Config.of("sdpa", backend="auto", compile="default", dynamic=False)
DYNAMIC = Config.of("sdpa", backend="auto", compile="default", dynamic=True)
PROBLEM = Problem.self_attention(64, heads=2, head_dim=8)


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    runtime.reload()
    yield tmp_path / "t.db"
    runtime.reload()


@pytest.fixture
def tensors():
    return [torch.randn(1, 2, 64, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3)]


@pytest.fixture
def failing(monkeypatch):
    """Configurations that fail, with what; and the order in which configurations were called."""
    errors, called = {}, []
    build = binding.build

    def planted(problem, pattern, config):
        attend = build(problem, pattern, config)

        def call(*tensors, **options):
            called.append(config)
            if config in errors:
                raise errors[config]
            return attend(*tensors, **options)

        return call

    monkeypatch.setattr(binding, "build", planted)
    return errors, called


def ladder(database):
    """The faster the larger."""
    measured = [(MATH, 1.0, 30), (RING, 2.0, 20), (AUTO, 3.0, 10)]
    fill(database, [(PROBLEM, DENSE, config, ok(ms, mib)) for config, ms, mib in measured])


OOM = "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@pytest.mark.parametrize(
    "error", [RuntimeError(OOM), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=repr
)
def test_when_memory_runs_out_the_next_most_frugal_runs_and_is_remembered(database, tensors, failing, error):
    ladder(database)
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
    ladder(database)
    errors, called = failing
    autotune.attention(*tensors)
    errors[MATH] = RuntimeError(OOM)
    autotune.attention(*tensors)
    autotune.attention(*tensors)
    assert called == [MATH, MATH, RING, RING]


def test_only_where_nothing_fits_the_caller_sees_an_error_that_names_the_smallest_need(database, tensors, failing):
    # All need less than the estimate of any other.
    measured = [(MATH, 1.0, 3 / 1024), (RING, 2.0, 2 / 1024), (AUTO, 3.0, 1 / 1024)]
    fill(database, [(PROBLEM, DENSE, config, ok(ms, mib)) for config, ms, mib in measured])
    errors, called = failing
    errors.update({config: RuntimeError(OOM) for config in (MATH, RING, AUTO)})
    with pytest.raises(NothingFitsError, match=r"memory ran out, and the most frugal .* needs 1\.00 KiB") as caught:
        autotune.attention(*tensors)
    assert OOM in str(caught.value.__cause__)
    assert called == [MATH, RING, AUTO]


def test_another_error_is_the_callers(database, tensors, failing):
    ladder(database)
    errors, called = failing
    errors[MATH] = RuntimeError("something else")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="something else"):
            autotune.attention(*tensors)
    assert called == [MATH, MATH]


def test_where_no_measured_one_fits_the_default_that_is_estimated_to_fit_runs(database, tensors):
    fill(database, [(PROBLEM, DENSE, MATH, ok(1.0, 30)), (PROBLEM, DENSE, RING, ok(2.0, 20))])
    decision = autotune.explain(*tensors, memory_limit=5 * MIB)
    assert (decision.source, decision.config) == ("default", AUTO)
    assert "no measured configuration fits" in decision.reason
    assert [one.reason for one in decision.rejected] == [
        "needs 30.00 MiB (measured), limit 5.00 MiB",
        "needs 20.00 MiB (measured), limit 5.00 MiB",
    ]


def test_torch_refusing_one_more_graph_is_no_error_and_no_silent_fallback(database, tensors, failing):
    fill(database, [(PROBLEM, DENSE, STATIC, ok(1.0)), (PROBLEM, DENSE, AUTO, ok(2.0))])
    errors, called = failing
    errors[STATIC] = torch._dynamo.exc.FailOnRecompileLimitHit("recompile_limit reached")
    autotune.attention(*tensors)
    assert called == [STATIC, AUTO]
    assert "graphs are compiled" in autotune.explain(*tensors).rejected[0].reason


def test_a_new_length_compiles_nothing_for_itself(database):
    fill(database, [(PROBLEM, DENSE, config, ok(ms)) for config, ms in ((STATIC, 1.0), (DYNAMIC, 2.0), (AUTO, 3.0))])
    here, there = (torch.zeros(1, 2, length, 8) for length in (64, 50))
    assert autotune.explain(here, here, here).config == STATIC
    elsewhere = autotune.explain(there, there, there)
    assert elsewhere.config == DYNAMIC
    assert "would hold for this length only; `autotune.warmup` compiles it" in elsewhere.rejected[0].reason


def test_a_graph_for_every_length_is_one():
    lengths = [Shape.self_attention(length) for length in (2, 64, 65, 100_000)]
    assert len({graph_of(problem, DENSE, DYNAMIC) for problem in lengths}) == 1
    assert len({graph_of(problem, DENSE, STATIC) for problem in lengths}) == 4
    assert graph_of(lengths[0], DENSE, AUTO) is None
    assert graph_of(Shape(query_len=1, kv_len=64), DENSE, DYNAMIC) != graph_of(lengths[1], DENSE, DYNAMIC)


def test_a_configuration_has_at_most_so_many_graphs():
    known = Graphs()
    problems = [Shape.self_attention(64 + index) for index in range(GRAPHS_PER_CONFIG + 1)]
    for problem in problems[:-1]:
        assert known.hindrance(problem, DENSE, STATIC, wanted=True) is None
        known.add(problem, DENSE, STATIC)
    assert known.hindrance(problems[0], DENSE, STATIC, wanted=False) is None
    assert "8 graphs are compiled" in known.hindrance(problems[-1], DENSE, STATIC, wanted=True)


def test_nothing_compiles_while_a_cuda_graph_is_captured(database, tensors, monkeypatch, failing):
    fill(database, [(PROBLEM, DENSE, STATIC, ok(1.0)), (PROBLEM, DENSE, AUTO, ok(2.0))])
    assert autotune.explain(*tensors).config == STATIC
    monkeypatch.setattr(graphs, "capturing", lambda: True)
    autotune.attention(*tensors)
    assert failing[1] == [AUTO]
    assert "while a CUDA graph is captured" in autotune.explain(*tensors).rejected[0].reason


def test_every_thread_is_served_and_the_database_is_read_once(database, monkeypatch):
    ladder(database)
    opened = []
    open_store = Store.open
    monkeypatch.setattr(knowledge.Store, "open", lambda *a, **k: opened.append(a) or open_store(*a, **k))
    start = threading.Barrier(8)

    def serve(seed):
        generator = torch.Generator().manual_seed(seed)
        start.wait()
        for length in (64, 33, 1, 50, 64):
            x = torch.randn(1, 2, length, 8, generator=generator)
            assert torch.allclose(autotune.attention(x, x, x), scaled_dot_product_attention(x, x, x), atol=1e-5)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(serve, range(8)))
    assert len(opened) == 1


def test_reloading_while_others_call(database):
    ladder(database)
    stop = threading.Event()

    def call():
        x = torch.randn(1, 2, 64, 8)
        count = 0
        while not stop.is_set():
            autotune.attention(x, x, x)
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        counts = [pool.submit(call) for _ in range(2)]
        for _ in range(5):
            autotune.reload()
        stop.set()
        assert all(one.result() >= 0 for one in counts)


def test_a_remembered_call_asks_nobody(database, tensors, monkeypatch):
    ladder(database)
    autotune.attention(*tensors)
    with monkeypatch.context() as nobody:
        nobody.setattr(binding.Table, "bind", None)
        nobody.setattr(runtime.table(), "_lock", None)
        autotune.attention(*tensors)


def test_the_text_says_what_was_asked_and_what_is_known(database, tensors):
    ladder(database)
    text = autotune.explain(*tensors, accept=[DENSE, LocalWindow(0.9)]).text
    for part in ("asked     measured: 3 of dense", "asked     shipped: none of local_window", "today"):
        assert part in text
