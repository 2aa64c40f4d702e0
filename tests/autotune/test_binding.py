"""Of what is known and may run now, the fastest runs; graphs are few, and threads do not wait for each other."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, LocalWindow, binding, current, graphs, knowledge
from autotune import bound as bound_module
from autotune.bound import Bound, OutdatedError
from autotune.db.store import Store
from autotune.graphs import GRAPHS_PER_CONFIG, Graphs, Implementation
from autotune.selector import Selector
from autotune.strategies.problem import Problem as Shape

from .ladder import AUTO, DENSE, MATH, PROBLEM, RING, ladder, plant, tensors
from .records import CPU, MIB, fill, ok

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
ASKED = binding.Asked(is_causal=False, enable_gqa=False, patterns=(DENSE,), memory_limit=None)
STATIC = Config.of("sdpa", backend="auto", compile="default", dynamic=False)
DYNAMIC = Config.of("sdpa", backend="auto", compile="default", dynamic=True)


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    current.reload()
    yield tmp_path / "t.db"
    current.reload()


@pytest.fixture(name="tensors")
def _tensors():
    return tensors()


@pytest.fixture
def failing(monkeypatch):
    return plant(monkeypatch)


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
    dynamic = [Implementation(CPU, problem, DENSE, DYNAMIC) for problem in lengths]
    assert len({one.graph for one in dynamic}) == 1
    assert len({one._replace(config=STATIC).graph for one in dynamic}) == 4
    assert dynamic[0]._replace(config=AUTO).graph is None
    assert dynamic[0]._replace(problem=Shape(query_len=1, kv_len=64)).graph != dynamic[0].graph
    assert dynamic[0]._replace(device=torch.device("cuda", 1)).graph != dynamic[0].graph


def test_a_configuration_has_at_most_so_many_graphs():
    known = Graphs()
    lengths = [64 + index for index in range(GRAPHS_PER_CONFIG + 1)]
    every = [Implementation(CPU, Shape.self_attention(length), DENSE, STATIC) for length in lengths]
    for one in every[:-1]:
        assert known.hindrance(one, wanted=True) is None
        known.add(one)
    assert known.hindrance(every[0], wanted=False) is None
    assert "8 graphs are compiled" in known.hindrance(every[-1], wanted=True)


def test_nothing_compiles_while_a_cuda_graph_is_captured(database, tensors, monkeypatch, failing):
    fill(database, [(PROBLEM, DENSE, STATIC, ok(1.0)), (PROBLEM, DENSE, AUTO, ok(2.0))])
    assert autotune.explain(*tensors).config == STATIC
    monkeypatch.setattr(graphs, "capturing", lambda: True)
    autotune.attention(*tensors)
    assert failing[1] == [AUTO]
    assert "while a CUDA graph is captured" in autotune.explain(*tensors).rejected[0].reason


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_what_is_compiled_asks_again_while_a_cuda_graph_is_captured(database, monkeypatch, mode):
    table, called = current.table(), []
    config = Config.of("sdpa", backend="auto", compile=mode, dynamic=False)
    decision = replace(table.bind(ASKED, *tensors()).decision, config=config)
    bound = Bound(decision, lambda *operands, scale: called.append(config), CPU)
    table._note_graph(bound)
    table.remember("call", bound)
    entry = table.calls["call"]
    entry(*tensors())
    assert called == [config]
    assert table._hindrance(bound.implementation, True) is None
    for module in (bound_module, graphs):
        monkeypatch.setattr(module, "capturing", lambda: True)
    with pytest.raises(OutdatedError) as caught:
        entry(*tensors())
    table.withdraw("call", entry, decision.problem, caught.value)
    assert "call" not in table.calls
    hindrance = table._hindrance(bound.implementation, True)
    assert hindrance is None if mode == "default" else "replays a CUDA graph of its own" in hindrance


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


def test_deciding_for_one_call_keeps_no_other_waiting(database, monkeypatch):
    ladder(database)
    autotune.attention(*tensors())
    going, go_on = threading.Event(), threading.Event()
    choose = Selector.choose

    def slow(self, problem, *arguments, **options):
        if problem.kv_len == 33:
            going.set()
            assert go_on.wait(60)
        return choose(self, problem, *arguments, **options)

    monkeypatch.setattr(Selector, "choose", slow)
    x, y = torch.randn(1, 2, 33, 8), torch.randn(1, 2, 50, 8)
    with ThreadPoolExecutor(2) as pool:
        slowly = pool.submit(autotune.attention, x, x, x)
        assert going.wait(60)
        try:
            out = pool.submit(autotune.attention, y, y, y).result(timeout=60)
            assert not slowly.done()
        finally:
            go_on.set()
        assert torch.allclose(out, scaled_dot_product_attention(y, y, y), atol=1e-5)
        assert torch.allclose(slowly.result(), scaled_dot_product_attention(x, x, x), atol=1e-5)


def test_threads_that_decide_the_same_at_once_share_one_callable(database, failing, monkeypatch):
    ladder(database)
    both = threading.Barrier(2, timeout=60)
    choose = Selector.choose
    monkeypatch.setattr(Selector, "choose", lambda *a, **k: both.wait() is not None and choose(*a, **k))
    with ThreadPoolExecutor(2) as pool:
        bound = [pool.submit(current.table().bind, ASKED, *tensors()) for _ in range(2)]
        first, second = (one.result() for one in bound)
    assert first.attend is second.attend


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
        nobody.setattr(current.table(), "_lock", None)
        autotune.attention(*tensors)


def test_the_text_says_what_was_asked_and_what_is_known(database, tensors):
    ladder(database)
    text = autotune.explain(*tensors, accept=[DENSE, LocalWindow(0.9)]).text
    for part in ("asked     measured: 3 of dense", "asked     shipped: none of local_window", "today"):
        assert part in text
