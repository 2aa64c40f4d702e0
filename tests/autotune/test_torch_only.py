"""What only torch's own attention takes goes there, also when it looks like a call made before, and keeps to limits."""

from typing import ClassVar

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import binding, current
from autotune.decision import NothingFitsError

from .ladder import MATH, ladder, plant, tensors
from .records import MIB

pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")


class Marked(torch.Tensor):
    """A tensor of another kind, that notes the functions of torch it is passed to."""

    seen: ClassVar = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.fixture(autouse=True)
def called(tmp_path, monkeypatch):
    """The configurations that strategies were called with."""
    monkeypatch.setenv("AUTOTUNE_DB", str(tmp_path / "t.db"))
    ladder(tmp_path / "t.db")
    current.reload()
    yield plant(monkeypatch)[1]
    current.reload()


@pytest.mark.parametrize("position", [0, 1, 2], ids=["query", "key", "value"])
@pytest.mark.parametrize("first", ["plain", "subclass"])
def test_a_tensor_of_another_kind_neither_finds_nor_leaves_the_entry_of_a_plain_one(called, position, first):
    plain, mixed = tensors(), tensors()
    mixed[position] = mixed[position].as_subclass(Marked)
    for call in (plain, mixed) if first == "plain" else (mixed, plain):
        Marked.seen.clear()
        called.clear()
        autotune.attention(*call)
        assert ("scaled_dot_product_attention" in Marked.seen) == (call is mixed)
        assert called == ([] if call is mixed else [MATH])


def test_a_tensor_of_another_kind_is_torchs_also_inside_a_transform(called):
    plain, mixed = tensors(), tensors()
    mixed[0] = mixed[0].as_subclass(Marked)
    for call in (plain, mixed, plain):
        called.clear()
        torch.vmap(autotune.attention)(*(x[None] for x in call))
        assert called == ([] if call is mixed else [MATH])


def test_a_parameter_is_served_from_the_table(called, monkeypatch):
    query, key, value = tensors()
    query = torch.nn.Parameter(query)
    out = autotune.attention(query, key, value)
    assert len(current.table().calls) == 1
    with monkeypatch.context() as nobody:
        nobody.setattr(binding.Table, "bind", None)
        assert torch.equal(autotune.attention(query, key, value), out)
    out.sum().backward()
    assert query.grad is not None


@pytest.mark.parametrize("heads", [(2, 4), (4, 2)], ids=str)
def test_grouped_heads_of_which_key_and_value_have_different_numbers(heads):
    query = torch.randn(1, 8, 5, 8)
    key, value = (torch.randn(1, count, 5, 8) for count in heads)
    expected = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert torch.equal(autotune.attention(query, key, value, enable_gqa=True), expected)
    reason = autotune.explain(query, key, value, enable_gqa=True).reason
    assert f"value with {heads[1]} heads beside key with {heads[0]}" in reason


@pytest.mark.parametrize("scalars", [(0, 1, 2), (0,), (1, 2), (2,)], ids=str)
@pytest.mark.parametrize("options", [{}, {"memory_limit": MIB}], ids=["free", "limited"])
def test_of_tensors_without_dimensions_torch_says_what_it_expects(scalars, options):
    call = [torch.tensor(1.0) if index in scalars else x for index, x in enumerate(tensors())]
    with pytest.raises(RuntimeError, match="at least 2 dimensional"):
        autotune.attention(*call, **options)
    assert "0 dimensions" in autotune.explain(*call).reason


def test_a_memory_limit_holds_for_shapes_that_only_torch_takes():
    query, key, value = tensors()
    value = value[..., :5]
    assert autotune.attention(query, key, value, memory_limit=MIB).shape == (1, 2, 64, 5)
    with pytest.raises(NothingFitsError, match="the output alone"):
        autotune.attention(query, key, value, memory_limit=100)
