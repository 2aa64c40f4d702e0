"""Compilers, function transforms, autocast and checkpointing: the same numbers and gradients as outside."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import autotune
from autotune import Config, Dense, LocalWindow, Problem, current

from .records import fill, ok

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
RING = Config.of("ring", chunk_size=10, compile="off", query_block=0)
WINDOW = LocalWindow(0.6, block_size=8)
SHAPE = (2, 2, 40, 16)


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    """Ring attention is the fastest."""
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    problems = [Problem.self_attention(40, direction=direction) for direction in ("forward", "training")]
    fill(tmp_path / "t.db", [(problem, Dense(), RING, ok(1.0)) for problem in problems])
    current.reload()
    yield
    current.reload()


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) for _ in range(3)]


def gradients(function, tensors):
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    out = function(*leaves)
    out.sin().sum().backward()
    return [out, *(leaf.grad for leaf in leaves)]


def close(actual, expected, tolerance=1e-5):
    for mine, wanted in zip(actual, expected, strict=True):
        assert mine.shape == wanted.shape
        assert torch.allclose(mine, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("options", [{}, {"pattern": WINDOW}, {"accept": [WINDOW]}], ids=["dense", "pattern", "accept"])
def test_in_a_compiled_model_without_a_graph_break(tensors, options):
    def model(query, key, value):
        return autotune.attention(query * 1.5, key, value, is_causal=True, scale=0.3, **options) + 1

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(gradients(compiled, tensors), gradients(model, tensors))


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((7, 4), (9, 4), (9, 6)), {}),
        (((7, 4), (3, 9, 4), (3, 9, 4)), {}),
        (((3, 7, 4), (9, 4), (1, 9, 4)), {}),
        (((2, 1, 3, 7, 4), (5, 1, 9, 4), (9, 4)), {}),
        (((2, 6, 7, 4), (2, 3, 9, 4), (2, 3, 9, 4)), {"enable_gqa": True}),
    ],
    ids=["no_heads", "keys_have_heads", "queries_have_heads", "batches", "grouped"],
)
def test_a_compiled_call_broadcasts_as_torch_does(shapes, options):
    tensors = [torch.randn(shape) for shape in shapes]
    compiled = torch.compile(lambda *x: autotune.attention(*x, **options), fullgraph=True, backend="aot_eager")
    expected = gradients(lambda *x: scaled_dot_product_attention(*x, **options), tensors)
    close(gradients(compiled, tensors), expected)


@pytest.mark.parametrize(
    "pattern_of",
    [
        lambda length: LocalWindow(0.6, block_size=8),
        lambda length: autotune.Dilated.longnet(length),
        lambda length: autotune.Dilated((8, 40), (1, 3), offsets="blocked"),
    ],
    ids=["window", "longnet", "dilated"],
)
def test_a_compiled_model_may_make_its_pattern(tensors, pattern_of):
    def model(query, key, value):
        return autotune.attention(query, key, value, pattern=pattern_of(query.shape[2]))

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    close(gradients(compiled, tensors), gradients(model, tensors))


def test_a_backward_pass_under_autocast_is_in_the_dtype_of_its_forward_pass(tensors):
    def train(function):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = function(*leaves)
        with torch.autocast("cpu", torch.float16):
            out.backward(torch.ones_like(out))
        return [leaf.grad for leaf in leaves]

    compiled = torch.compile(lambda *x: autotune.attention(*x), fullgraph=True, backend="aot_eager")
    close(train(compiled), train(scaled_dot_product_attention))


def test_a_compiled_model_decides_at_each_length_with_one_graph():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = torch.compile(autotune.attention, fullgraph=True, dynamic=True, backend=count)
    for length in (17, 23, 40, 57):
        x = torch.randn(1, 2, length, 16)
        close([model(x, x, x)], [scaled_dot_product_attention(x, x, x)])
    assert len(graphs) == 1


@pytest.mark.slow
def test_compiled_by_inductor(tensors):
    def model(query, key, value):
        return autotune.attention(query * 1.5, key, value, is_causal=True).transpose(1, 2).reshape(2, 40, 32).sin()

    close(gradients(torch.compile(model, fullgraph=True), tensors), gradients(model, tensors))


def test_under_replacement_a_compiled_model_has_no_graph_break(tensors):
    def model(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    with autotune.replace_sdpa():
        actual = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"), tensors)
    close(actual, gradients(model, tensors))


def both(function, tensors):
    """Of our attention and of torch's, as the function takes it."""
    return function(autotune.attention), function(scaled_dot_product_attention)


def test_functional_gradients(tensors):
    actual, expected = both(
        lambda attend: torch.func.grad(lambda *x: attend(*x, is_causal=True).sin().sum(), argnums=(0, 1, 2))(*tensors),
        tensors,
    )
    close(actual, expected)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 1, 1), (2, 0, 0)], ids=str)
def test_vmap(in_dims):
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for dim in in_dims:
        x = torch.randn(3, *SHAPE, generator=generator)
        tensors.append(x[0] if dim is None else x.movedim(0, dim))
    actual, expected = both(lambda attend: torch.vmap(attend, in_dims)(*tensors), tensors)
    close([actual], [expected])


def test_vmap_of_a_gradient_and_gradient_of_a_vmap(tensors):
    _, key, value = tensors
    queries = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    actual, expected = both(
        lambda attend: torch.vmap(torch.func.grad(lambda x: attend(x, key, value).sin().sum()))(queries), tensors
    )
    close([actual], [expected])
    actual, expected = both(
        lambda attend: torch.func.grad(lambda x: torch.vmap(lambda q: attend(q, x, value))(queries).sin().sum())(key),
        tensors,
    )
    close([actual], [expected])


def test_a_pattern_under_function_transforms(tensors):
    def loss(*x):
        return autotune.attention(*x, pattern=WINDOW).sin().sum()

    leaves = [x.clone().requires_grad_() for x in tensors]
    close(torch.func.grad(loss, argnums=(0, 1, 2))(*tensors), torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(tensors, reentrant):
    def layer(*x):
        return autotune.attention(*x, is_causal=True).sin()

    close(gradients(lambda *x: checkpoint(layer, *x, use_reentrant=reentrant), tensors), gradients(layer, tensors))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_casts_as_torch_does(tensors, dtype):
    with torch.autocast("cpu", dtype=dtype):
        mine, torchs = autotune.attention(*tensors), scaled_dot_product_attention(*tensors)
        mixed = autotune.attention(tensors[0], tensors[1].to(dtype), tensors[2])
        assert autotune.explain(*tensors).problem.torch_dtype == dtype
        doubles = autotune.attention(*(x.double() for x in tensors))
    assert mine.dtype == torchs.dtype == mixed.dtype == dtype
    assert doubles.dtype == torch.float64
    close([mine.float(), mixed.float()], [torchs.float()] * 2, tolerance=2e-2)


def test_autocast_keeps_the_gradients_dtype(tensors):
    with torch.autocast("cpu", dtype=torch.float16):
        actual = gradients(autotune.attention, tensors)
    assert [x.dtype for x in actual] == [torch.float16] + [torch.float32] * 3
    close(actual[1:], gradients(scaled_dot_product_attention, tensors)[1:], tolerance=2e-2)


def test_a_tracer_sees_one_operator(tensors):
    exported = torch.export.export(Attend(), tuple(tensors), strict=False)
    targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert targets.count("autotune.attention.default") == 1
    close([exported.module()(*tensors)], [scaled_dot_product_attention(*tensors)])


class Attend(torch.nn.Module):
    def forward(self, query, key, value):
        return autotune.attention(query, key, value)
