"""Whatever torch's own attention takes, ours takes, and answers the same; also under its name."""

import math
from collections import Counter
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, Problem, current, runtime
from autotune.strategies.problem import DTYPE_NAMES

from .records import fill, ok

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
RING = Config.of("ring", chunk_size=7, compile="off", query_block=0)
MATH = Config.of("sdpa", backend="math", compile="off")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """Other implementations than torch's default were the fastest: ring in training, and math forward in float16."""
    path = tmp_path_factory.mktemp("drop_in") / "t.db"
    forward = [(name, RING if name != "float16" else MATH, "forward") for name in DTYPE_NAMES.values()]
    training = [(name, RING, "training") for name in DTYPE_NAMES.values()]
    fill(
        path,
        [
            (Problem.self_attention(16, dtype=dtype, direction=direction), Dense(), config, ok(1.0))
            for dtype, config, direction in (*forward, *training)
        ],
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AUTOTUNE_DB", str(path))
        current.reload()
        yield path
    current.reload()


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call, by value."""

    tensors: tuple[torch.Tensor, ...]
    options: dict
    grad: bool

    def result(self, call):
        """Output and gradients, that of a mask of numbers too."""
        leaves = [x.detach().clone().requires_grad_(self.grad) for x in self.tensors]
        options, mask = dict(self.options), self.options.get("attn_mask")
        if mask is not None and mask.is_floating_point():
            options["attn_mask"] = mask.detach().clone().requires_grad_(self.grad)
        out = call(*leaves, **options)
        if not (self.grad and out.requires_grad):
            return [out]
        if options.get("attn_mask") is not mask:
            leaves.append(options["attn_mask"])
        return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out) * 0.5, allow_unused=True)]


def sizes(most):
    """Lengths; the smallest are the ones that break."""
    return st.one_of(st.sampled_from([0, 1, 2]), st.integers(1, most))


@st.composite
def arguments(draw, dtypes=(torch.float32, torch.float64, torch.float16)):
    """A call that torch's attention takes, or may refuse."""
    lead = draw(st.sampled_from([(), (1,), (2,), (3,), (2, 3)]))
    heads, group = draw(st.sampled_from([1, 2, 6])), draw(st.sampled_from([1, 1, 2, 3]))
    gqa = heads % group == 0 and group > 1
    kv_heads = heads // group if gqa else draw(st.sampled_from([heads, heads, 1]))
    rows, columns, width = draw(sizes(40)), draw(sizes(40)), draw(st.sampled_from([1, 3, 8, 16, 17, 33]))
    value_width = draw(st.sampled_from([width, width, width, 5]))
    dtype = draw(st.sampled_from(dtypes))
    kv_lead = draw(st.sampled_from([lead, lead, lead[1:], (1,) * len(lead)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))

    def tensor(*shape):
        if draw(st.booleans()):  # strides as of a packed projection
            made = torch.randn(*shape[:-3], shape[-2], shape[-3], shape[-1], generator=generator).transpose(-3, -2)
        else:
            made = torch.randn(*shape, generator=generator)
        return made.to(dtype)

    tensors = (
        tensor(*lead, heads, rows, width),
        tensor(*kv_lead, kv_heads, columns, width),
        tensor(*kv_lead, kv_heads, columns, value_width),
    )
    options = {"enable_gqa": gqa, "is_causal": draw(st.booleans())}
    options["scale"] = draw(st.sampled_from([None, None, 0.3, 1.0]))
    if draw(st.integers(0, 3)) == 0:
        options["is_causal"] = False
        options["attn_mask"] = draw(masks((*lead, heads, rows, columns), dtype, generator))
    return Arguments(tensors, options, grad=draw(st.booleans()))


@st.composite
def masks(draw, shape, dtype, generator):
    """Of two dimensions or more, each of which may be one; of booleans or numbers."""
    dimensions = draw(st.integers(2, len(shape)))
    sizes = [draw(st.sampled_from([size, size, 1])) for size in shape[-dimensions:-1]]
    mask = torch.rand(*sizes, shape[-1], generator=generator) > 0.3
    return mask if draw(st.booleans()) else torch.randn(mask.shape, generator=generator).to(dtype)


def outcome(made, call):
    """Whether torch takes the call: then ours gives the same, to the rounding of the dtype, and else refuses it too."""
    try:
        expected = made.result(scaled_dot_product_attention)
    except RuntimeError:
        with pytest.raises((RuntimeError, ValueError)):
            made.result(call)
        return "refused"
    actual = made.result(call)
    assert len(actual) == len(expected)
    exact = made if made.tensors[0].dtype == torch.float64 else doubled(made)
    right, flash = exact.result(scaled_dot_product_attention), made.result(in_four_dimensions)
    for mine, theirs, fast, wanted in zip(actual, expected, flash, right, strict=True):
        if theirs is None:  # as the gradient of a mask without elements
            assert mine is None
            continue
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine.isnan(), theirs.isnan())
        size = distance(torch.zeros_like(wanted), wanted)
        torchs = max(distance(theirs, wanted), distance(fast, wanted))
        assert distance(mine, wanted) <= max(TOLERANCE[mine.dtype] * max(size, 1.0), 2 * torchs)
    return "masked" if "attn_mask" in made.options else "agrees"


def distance(found, wanted):
    """The largest difference, where there are numbers."""
    return (found.double() - wanted).nan_to_num().abs().max().item() if wanted.numel() else 0.0


def in_four_dimensions(query, key, value, *, enable_gqa, attn_mask=None, **options):
    """Torch's own attention, as its flash kernel takes it: in half precision it rounds more than the plain formula."""
    lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])

    def four(x):
        heads = x.shape[-3] if enable_gqa else query.shape[-3]
        return x.expand(*lead, heads, *x.shape[-2:]).reshape(math.prod(lead), heads, *x.shape[-2:])

    if attn_mask is not None:
        return scaled_dot_product_attention(query, key, value, attn_mask, enable_gqa=enable_gqa, **options)
    out = scaled_dot_product_attention(*map(four, (query, key, value)), enable_gqa=enable_gqa, **options)
    return out.reshape(*lead, *out.shape[1:])


def compare(call, count, made=None):
    """Draw so many calls; nearly all are such that torch takes them, and many have masks."""
    outcomes = Counter()

    @given(made=arguments() if made is None else made)
    @settings(max_examples=count, deadline=None, suppress_health_check=RELAXED)
    def each(made):
        outcomes[outcome(made, call)] += 1

    each()
    total = outcomes.total()
    assert outcomes["refused"] <= MOST_REFUSED * total, outcomes
    assert outcomes["masked"] >= total / 20, outcomes
    return outcomes


def doubled(made):
    options = dict(made.options)
    mask = options.get("attn_mask")
    if mask is not None and mask.is_floating_point():
        options["attn_mask"] = mask.double()
    return Arguments(tuple(x.double() for x in made.tensors), options, made.grad)


def replaced(*tensors, **options):
    """Torch's function, by the name a model knows it by, inside the context."""
    with autotune.replace_sdpa():
        assert torch.nn.functional.scaled_dot_product_attention is autotune.attention
        return torch.nn.functional.scaled_dot_product_attention(*tensors, **options)


CALLS = pytest.mark.parametrize("call", [autotune.attention, replaced], ids=["attention", "replace_sdpa"])
MOST_REFUSED = 0.05  # of the calls drawn
RELAXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@CALLS
def test_random_calls_agree_with_torch(database, call):
    compare(call, 40)


@pytest.mark.slow
@CALLS
def test_a_thousand_random_calls_agree_with_torch(database, call):
    outcomes = compare(call, 1300)
    assert outcomes["agrees"] + outcomes["masked"] >= 1000, outcomes


@pytest.mark.slow
def test_random_calls_agree_in_bfloat16(database):
    compare(autotune.attention, 200, arguments(dtypes=(torch.bfloat16,)))


def test_other_implementations_than_torchs_ran_there(database):
    query, key, value = (torch.randn(2, 6, 33, 17) for _ in range(3))
    decision = autotune.explain(query, key[:, :1], value[:, :1])
    assert (decision.config, decision.source) == (RING, "neighbour")
    assert decision.problem.kv_heads == 6


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([(1, 2, 0, 8), (1, 2, 4, 8), (1, 2, 4, 8)], "without elements"),
        ([(1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 5)], "head_dim 5 beside 8"),
        ([(4, 8), (4, 8), (4, 8)], "2 dimensions"),
    ],
)
def test_what_only_torch_takes_is_served_by_it_and_explained(database, shapes, reason):
    tensors = [torch.randn(shape) for shape in shapes]
    assert torch.equal(autotune.attention(*tensors), scaled_dot_product_attention(*tensors))
    decision = autotune.explain(*tensors)
    assert decision.source == "caller"
    assert reason in decision.reason
    assert "shapes that only torch takes" in decision.text
    with pytest.raises(autotune.AutotuneError, match="only Dense"):
        autotune.attention(*tensors, pattern=autotune.LocalWindow(0.9))


def test_a_nested_tensor_is_served_by_torch(database):
    packed = torch.nested.nested_tensor([torch.randn(5, 2, 8), torch.randn(3, 2, 8)], layout=torch.jagged)
    heads = packed.transpose(1, 2)
    expected = scaled_dot_product_attention(heads, heads, heads)
    actual = autotune.attention(heads, heads, heads)
    assert all(torch.equal(a, b) for a, b in zip(actual.unbind(), expected.unbind(), strict=True))


def test_replacing_reaches_torchs_own_layers_and_nests(database):
    layer = torch.nn.MultiheadAttention(16, 2, batch_first=True).train()
    x = torch.randn(2, 10, 16, requires_grad=True)
    expected = layer(x, x, x, need_weights=False)[0]
    original = torch.nn.functional.scaled_dot_product_attention
    with mock.patch.object(runtime, "attention", wraps=runtime.attention) as spy:
        with autotune.replace_sdpa(), autotune.replace_sdpa():
            actual = layer(x, x, x, need_weights=False)[0]
        assert spy.call_count == 1
    assert torch.allclose(actual, expected, atol=1e-5)
    assert torch.nn.functional.scaled_dot_product_attention is original


def test_replacing_puts_back_what_another_library_has_put_there(database, monkeypatch):
    def theirs(*tensors, **options):
        return scaled_dot_product_attention(*tensors, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", theirs)
    with autotune.replace_sdpa(), autotune.replace_sdpa():
        assert torch.nn.functional.scaled_dot_product_attention is autotune.attention
    assert torch.nn.functional.scaled_dot_product_attention is theirs


def test_replacing_ends_also_after_an_error_and_only_with_the_last_context(database):
    original = torch.nn.functional.scaled_dot_product_attention
    first, second = autotune.replace_sdpa(), autotune.replace_sdpa()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # they overlap, as in two threads
    assert torch.nn.functional.scaled_dot_product_attention is autotune.attention
    assert not second.__exit__(KeyError, KeyError("x"), None)
    assert torch.nn.functional.scaled_dot_product_attention is original
