"""Problems: what is accepted, what is derived, and the key they are stored under."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from autotune.strategies.errors import AutotuneError, ProblemError
from autotune.strategies.problem import DTYPES, Problem

PROBLEM = Problem(batch=2, heads=12, kv_heads=3, query_len=100, kv_len=300, head_dim=80, dtype="bfloat16", causal=True)


def test_key_never_changes():
    # Databases hold these: a change here orphans every stored measurement.
    assert PROBLEM.key == "cpu/forward/bfloat16/b2/h12x3/l100x300/d80/causal"
    assert replace(PROBLEM, device="cuda", kv_home="host").key == (
        "cuda/forward/bfloat16/b2/h12x3/l100x300/d80/causal/kv-host"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("batch", 1), ("heads", 6), ("kv_heads", 4), ("query_len", 101), ("kv_len", 301), ("head_dim", 64)),
        *(("dtype", "float16"), ("causal", False), ("direction", "training"), ("device", "cuda")),
        ("kv_home", "host"),
    ],
)
def test_every_field_tells_problems_apart(field, value):
    other = replace(PROBLEM, **{field: value})
    assert other != PROBLEM
    assert other.key != PROBLEM.key
    assert hash(replace(other, **{field: getattr(PROBLEM, field)})) == hash(PROBLEM)


def test_a_problem_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        PROBLEM.batch = 3


def test_self_attention_has_equal_lengths_and_by_default_equal_heads():
    problem = Problem.self_attention(7, heads=6, causal=True)
    assert (problem.query_len, problem.kv_len, problem.heads, problem.kv_heads) == (7, 7, 6, 6)
    assert problem.causal
    assert Problem.self_attention(7, heads=6, kv_heads=2).group_size == 3


@pytest.mark.parametrize("name", ["batch", "heads", "kv_heads", "query_len", "kv_len", "head_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_refused_with_its_name_value_and_limit(name, value):
    with pytest.raises(ProblemError, match=f"^{name} is {value}, but must be a whole number of at least 1$"):
        replace(PROBLEM, **{name: value})


@pytest.mark.parametrize("name", ["batch", "heads", "kv_heads", "query_len", "kv_len", "head_dim"])
def test_a_size_that_is_no_whole_number_is_refused(name):
    with pytest.raises(ProblemError, match=rf"{name} is 12\.5.*whole"):
        replace(PROBLEM, **{name: 12.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 5}, "heads is 12, but must be a multiple of kv_heads, 5"),
        ({"kv_heads": 24}, "heads is 12, but must be a multiple of kv_heads, 24"),
        ({"dtype": "int8"}, "dtype is 'int8', but must be one of float16, bfloat16, float32, float64"),
        ({"direction": "sideways"}, "direction is 'sideways', but must be one of forward, training"),
        ({"kv_home": "disk"}, "kv_home is 'disk', but must be one of device, host"),
    ],
)
def test_a_bad_field_is_refused_with_value_and_limit(changes, message):
    with pytest.raises(ProblemError, match=message) as caught:
        replace(PROBLEM, **changes)
    assert isinstance(caught.value, AutotuneError)
    assert isinstance(caught.value, ValueError)


def test_sizes_in_bytes_are_those_of_the_tensors():
    query = torch.empty(2, 12, 100, 80, dtype=torch.bfloat16)
    key = torch.empty(2, 3, 300, 80, dtype=torch.bfloat16)
    assert PROBLEM.output_bytes == query.nbytes
    assert PROBLEM.kv_bytes == 2 * key.nbytes


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_names_are_those_of_torch(name):
    assert replace(PROBLEM, dtype=name).torch_dtype == getattr(torch, name)


@pytest.mark.parametrize(("direction", "training"), [("forward", False), ("training", True)])
def test_training_is_the_direction_with_gradients(direction, training):
    assert replace(PROBLEM, direction=direction).training is training


def test_keys_lie_with_the_query_or_on_the_cpu():
    device = torch.device("cuda", 1)
    assert PROBLEM.kv_device(device) == device
    assert replace(PROBLEM, kv_home="host").kv_device(device) == torch.device("cpu")
