"""However calls differ in what graphs are specialised for, each ends, and a configuration has eight graphs at most."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, Problem, current
from autotune.graphs import GRAPHS_PER_CONFIG, distinct
from autotune.strategies.catalog import build

from .records import fill, ok

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
DENSE = Dense()
OFF = Config.of("sdpa", backend="auto", compile="off")
MATH = Config.of("sdpa", backend="math", compile="off")
STATIC, DYNAMIC, STATIC_MATH, DYNAMIC_MATH = (
    Config.of("sdpa", backend=backend, compile="default", dynamic=dynamic)
    for backend, dynamic in product(("auto", "math"), (False, True))
)
PROBLEM = Problem.self_attention(64, heads=2, head_dim=8)


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Graphs are captured, guarded and counted as ever, but run as they are: no code is generated for them."""
    compile_really = torch.compile

    def compile_quickly(function, *, mode, dynamic, fullgraph):
        return compile_really(function, backend="eager", dynamic=dynamic, fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", compile_quickly)
    torch.compiler.reset()
    counters.clear()
    sdpa_callables().cache_clear()
    yield
    torch.compiler.reset()
    sdpa_callables().cache_clear()


def sdpa_callables():
    from autotune.strategies import sdpa

    return sdpa._bound


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Fills the database: a compiled configuration is the fastest, an uncompiled one the next."""

    def measure(config, problem=PROBLEM):
        monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / f"{config.id}.db"))
        fill(tmp_path / f"{config.id}.db", [(problem, DENSE, config, ok(1.0)), (problem, DENSE, OFF, ok(2.0))])
        current.reload()

    yield measure
    current.reload()


def graphs():
    """How many there are."""
    return counters["stats"]["unique_graphs"]


def check(x, **options):
    """One call is right; of three tensors, for graphs are specialised for one that is passed twice."""
    tensors = (x, x + 1, 2 * x)
    expected = scaled_dot_product_attention(*tensors, scale=options.get("scale"))
    assert torch.allclose(autotune.attention(*tensors, **options), expected, atol=1e-5)


def test_a_ninth_scale_runs_uncompiled_and_says_so(measured):
    measured(STATIC)
    x = torch.randn(1, 2, 64, 8)
    for index in range(12):
        check(x, scale=0.1 + index)
    assert graphs() == GRAPHS_PER_CONFIG
    decision = autotune.explain(x, x, x)
    assert decision.config == OFF
    assert "8 graphs are compiled for other calls" in decision.rejected[0].reason


def test_a_ninth_kind_of_call_runs_uncompiled_though_its_graph_takes_every_length(measured):
    measured(DYNAMIC)
    modes, scales, batches = (torch.enable_grad, torch.no_grad, torch.inference_mode), (None, 0.3), (1, 2)
    for batch, scale, mode, transposed in product(batches, scales, modes, (False, True)):
        with mode():
            x = torch.randn(batch, 64, 2, 8).transpose(1, 2) if transposed else torch.randn(batch, 2, 64, 8)
            check(x, scale=scale)
    assert graphs() <= GRAPHS_PER_CONFIG


def test_limits_and_ranks_share_one_graph(measured):
    measured(STATIC)
    x = torch.randn(1, 2, 64, 8)
    for limit in range(1 << 30, (1 << 30) + 12):
        check(x, memory_limit=limit)
    check(x, accept=[DENSE])
    check(x[0])
    check(x, enable_gqa=True)
    assert graphs() == 1
    current.reload()
    check(x)
    assert graphs() == 1


def test_a_table_builds_an_implementation_once(measured, monkeypatch):
    measured(OFF)
    built = []
    monkeypatch.setattr("autotune.binding.build", lambda *what: built.append(what) or build(*what))
    x = torch.randn(1, 2, 64, 8)
    for options in ({}, {"memory_limit": 1 << 30}, {"accept": [DENSE]}, {"enable_gqa": True}):
        check(x, **options)
    check(x[0])
    assert len(built) == 1


def test_graphs_of_one_configuration_leave_those_of_others_alone():
    for config in (STATIC, STATIC_MATH, DYNAMIC, DYNAMIC_MATH):
        for length in (16, 24, 32, 40):
            problem, x = Problem.self_attention(length, heads=2, head_dim=8), torch.randn(1, 2, length, 8)
            out = build(problem, DENSE, config)(x, x, x)
            assert torch.allclose(out, scaled_dot_product_attention(x, x, x), atol=1e-5)
    assert graphs() == 4 + 4 + 1 + 1


def test_what_is_warmed_up_compiles_no_more_however_it_is_called(measured):
    measured(STATIC)
    problems = [Problem.self_attention(length, heads=2, head_dim=8) for length in (50, 64)]
    assert [one.config for one in autotune.warmup(problems, scale=0.3)] == [STATIC] * 2
    compiled = graphs()
    assert compiled == 4  # a layout each
    for length, mode in product((50, 64), (torch.enable_grad, torch.no_grad)):
        with mode():
            check(torch.randn(1, 2, length, 8), scale=0.3)
            swapped = [torch.randn(1, length, 2, 8).transpose(1, 2) for _ in range(3)]
            out = autotune.attention(*swapped, scale=0.3)
        assert torch.allclose(out, scaled_dot_product_attention(*swapped, scale=0.3), atol=1e-5)
    assert graphs() == compiled


def test_training_is_warmed_up_with_its_backward_pass(measured):
    training = replace(PROBLEM, direction="training")
    measured(STATIC, training)
    with torch.no_grad():
        assert [one.config for one in autotune.warmup([training])] == [STATIC]
    compiled = graphs()
    assert compiled == 2
    leaves = [torch.randn(1, 64, 2, 8, requires_grad=True) for _ in range(3)]
    autotune.attention(*(x.transpose(1, 2) for x in leaves)).sum().backward()
    assert graphs() == compiled
    assert all(x.grad is not None for x in leaves)


def test_what_served_before_the_warm_up_does_not_go_on(measured):
    measured(STATIC)
    x = torch.randn(1, 2, 50, 8)
    check(x)
    check(x, memory_limit=1 << 30)
    assert graphs() == 0
    (decision,) = autotune.warmup([Problem.self_attention(50, heads=2, head_dim=8)])
    assert (decision.config, graphs()) == (STATIC, 2)
    for options in ({}, {"memory_limit": 1 << 30}):
        check(x, **options)
        assert autotune.explain(x, x, x, **options).config == STATIC
    with counting() as calls:
        check(x)
    assert calls == [STATIC]
    assert graphs() == 2


@contextmanager
def counting():
    """Which configurations the entries of the table stand for, as they are called."""
    table, called = current.table(), []
    for call, attend in list(table.calls.items()):
        config = table._bound[call].decision.config

        def spy(*operands, attend=attend, config=config, **options):
            called.append(config)
            return attend(*operands, **options)

        table.calls[call] = spy
    yield called


def test_more_than_the_graphs_suffice_for_is_told(measured):
    measured(STATIC)
    problems = [Problem.self_attention(length, heads=2, head_dim=8) for length in range(40, 46)]
    assert [one.config for one in autotune.warmup(problems)] == [STATIC] * 4 + [OFF] * 2
    assert graphs() == GRAPHS_PER_CONFIG


@pytest.mark.parametrize("passed", ["xxx", "qkk", "xkx", "xxv", "qkv"])
def test_a_callable_that_is_compiled_is_given_three_tensors_of_the_same_numbers(passed):
    made = {name: torch.randn(1, 2, 5, 8) for name in "xqkv"}
    operands, seen = [made[name] for name in passed], []
    distinct(lambda *three, scale: seen.append((three, scale)))(*operands, scale=0.3)
    ((three, scale),) = seen
    assert len({id(x) for x in three}) == 3
    assert all(torch.equal(mine, given) for mine, given in zip(three, operands, strict=True))
    assert [x.data_ptr() for x in three] == [x.data_ptr() for x in operands]
    assert scale == 0.3


def test_the_current_device_is_warmed_up(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    module = sys.modules[autotune.warmup.__module__]
    assert module._device(replace(PROBLEM, device="cuda")) == torch.device("cuda", 3)
    assert module._device(PROBLEM) == torch.device("cpu")
