"""Tensors as a problem: where keys and values may lie, and what then runs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dilated, bound, call, current, graphs
from autotune.strategies.errors import ProblemError, UnsupportedError

from .ladder import DENSE, MATH, PROBLEM, RING, tensors
from .records import MIB, fill, ok

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")


@pytest.fixture
def untuned(tmp_path, monkeypatch):
    """Nothing is known."""
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    current.reload()
    yield
    current.reload()


@pytest.fixture
def host(untuned, monkeypatch):
    """Tensors on the CPU pass for a query on a GPU beside keys in the memory of the host."""
    monkeypatch.setattr(call, "kv_home", lambda *devices: "host")


def test_keys_are_at_home_with_the_query_or_in_the_hosts_memory():
    assert call.kv_home(CPU, CPU, CPU) == call.kv_home(FIRST, FIRST, FIRST) == "device"
    assert call.kv_home(FIRST, CPU, CPU) == "host"


@pytest.mark.parametrize(
    "devices",
    [(CPU, FIRST, FIRST), (FIRST, CPU, FIRST), (FIRST, FIRST, CPU), (FIRST, SECOND, SECOND), (CPU, CPU, FIRST)],
)
def test_other_mixtures_are_refused_by_name(devices):
    with pytest.raises(ProblemError, match="on one device; or key and value on the CPU") as caught:
        call.kv_home(*devices)
    assert ", ".join(map(str, devices)) in str(caught.value)


@pytest.mark.usefixtures("host")
def test_keys_in_the_hosts_memory_are_served_by_the_ring():
    inputs = tensors()
    decision = autotune.explain(*inputs)
    assert decision.problem == replace(PROBLEM, kv_home="host")
    assert decision.config.strategy == "ring"
    assert "for       cpu/forward/float32/b1/h2x2/l64x64/d8/full/kv-host" in decision.text
    out, expected = autotune.attention(*inputs, is_causal=True), scaled_dot_product_attention(*inputs, is_causal=True)
    assert torch.allclose(out, expected, atol=1e-5)


@pytest.mark.usefixtures("host")
def test_while_a_cuda_graph_is_captured_keys_in_the_hosts_memory_are_refused_and_nothing_is_learnt(
    tmp_path, monkeypatch
):
    problem, faster = replace(PROBLEM, kv_home="host"), Config.of("ring", chunk_size=16, compile="off", query_block=0)
    fill(tmp_path / "t.db", [(problem, DENSE, config, ok(ms)) for config, ms in ((RING, 2.0), (faster, 1.0))])
    inputs = tensors()
    out = autotune.attention(*inputs)
    for options in ({}, {"memory_limit": MIB}):  # remembered, and new
        with monkeypatch.context() as captured:
            for module in (bound, graphs):
                captured.setattr(module, "capturing", lambda: True)
            with pytest.raises(UnsupportedError, match=r"no CUDA graph can capture keys .*; move them to the GPU"):
                autotune.attention(*inputs, **options)
        decision = autotune.explain(*inputs, **options)
        assert (decision.config, decision.source) == (faster, "measured")
        assert [one.config for one in decision.rejected if "failed here" in one.reason] == []
        assert torch.equal(autotune.attention(*inputs, **options), out)


@pytest.mark.usefixtures("host")
def test_what_cannot_be_streamed_is_refused_with_its_reason():
    query, key, value = tensors()
    with pytest.raises(UnsupportedError, match="forward only"):
        autotune.attention(query, key.requires_grad_(), value)
    with pytest.raises(UnsupportedError, match="for dense attention only, not for dilated"):
        autotune.attention(query, key.detach(), value, pattern=Dilated((32,), (1,)))
    with pytest.raises(
        UnsupportedError, match=r"attn_mask.* and sdpa reads keys and values in the memory of the device"
    ):
        autotune.explain(query, key.detach(), value, torch.ones(64, 64, dtype=torch.bool))


@pytest.fixture(params=[MATH, RING], ids=["math", "ring"])
def tuned(request, untuned, tmp_path):
    """Another configuration than the default is known to be the fastest; kernels of tiles look at no device."""
    fill(tmp_path / "t.db", [(PROBLEM, DENSE, request.param, ok(1.0))])
    return request.param


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda key, value: (key.to("meta"), value),
        lambda key, value: (key, value.to("meta")),
        lambda key, value: (key.to("meta"), value.to("meta")),
        lambda key, value: (key.to_sparse(), value),
        lambda key, value: (key, value.to_sparse()),
    ],
    ids=["meta_key", "meta_value", "meta", "sparse_key", "sparse_value"],
)
def test_a_call_with_other_keys_fails_alone(tuned, elsewhere):
    query, key, value = tensors()
    out = autotune.attention(query, key, value)
    for _ in range(2):
        with pytest.raises((RuntimeError, ProblemError)):
            autotune.attention(query, *elsewhere(key, value))
        assert torch.equal(autotune.attention(query, key, value), out)
        decision = autotune.explain(query, key, value)
        assert (decision.config, decision.source) == (tuned, "measured")
