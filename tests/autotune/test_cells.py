import re

import pytest
import torch

from autotune.cells import DEFAULT_LENGTHS, PATTERN_NAMES, Workload
from autotune.strategies.errors import PatternError, ProblemError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 1)


def cells(device=CPU, **fields):
    return [(cell.problem.query_len, cell.pattern) for cell in Workload(**fields).cells(device)]


@pytest.mark.parametrize(("device", "dtype"), [(CPU, "float32"), (CUDA, "float16")])
def test_without_options_the_three_patterns_at_the_devices_lengths(device, dtype):
    found = Workload().cells(device)
    expected = [
        (length, pattern)
        for length in DEFAULT_LENGTHS[device.type]
        for pattern in (Dense(), Dilated.longnet(length), LocalWindow(0.9), LocalWindow(0.95))
    ]
    assert [(cell.problem.query_len, cell.pattern) for cell in found] == expected
    assert {(cell.device, cell.problem.device, cell.problem.dtype) for cell in found} == {(device, device.type, dtype)}


def test_short_lengths_come_first_and_nothing_twice():
    found = cells(lengths=(512, 64, 512), patterns=("dense", Dense(), "dilated", Dilated.longnet(64)))
    assert found == [
        (64, Dense()),
        (64, Dilated.longnet(64)),
        (512, Dense()),
        (512, Dilated.longnet(512)),
        (512, Dilated.longnet(64)),
    ]


def test_options_reach_the_problem():
    (cell,) = Workload(
        lengths=(100,),
        patterns=("dense",),
        batch=2,
        heads=12,
        kv_heads=4,
        head_dim=80,
        dtype="bfloat16",
        causal=True,
        direction="training",
    ).cells(CPU)
    assert cell.problem.key == "cpu/training/bfloat16/b2/h12x4/l100x100/d80/causal"
    assert cell.label == "dense, 100 tokens on cpu"


@pytest.mark.parametrize("dense", ["dense", Dense()])
def test_keys_in_the_hosts_memory_are_a_gpus_matter(dense):
    found = Workload(lengths=(100,), patterns=("dilated", dense), kv_home="host").cells(CUDA)
    assert [cell.problem.key for cell in found] == ["cuda/forward/float16/b1/h8x8/l100x100/d64/full/kv-host"] * 2


@pytest.mark.parametrize(
    ("device", "fields", "found"),
    [
        (CPU, {}, "cpu, forward, for dense, dilated, local_window"),
        (CUDA, {"direction": "training"}, "cuda, training, for dense, dilated, local_window"),
        (
            CUDA,
            {"patterns": ("local_window", Strided(1, 2))},
            f"cuda, forward, for local_window, {Strided(1, 2).label}",
        ),
    ],
)
def test_keys_in_the_hosts_memory_that_no_call_reads_are_refused(device, fields, found):
    message = (
        f"kv_home is 'host' on {found}, but must be 'device' unless dense attention runs forward on cuda; leave it out"
    )
    with pytest.raises(ProblemError, match=f"^{re.escape(message)}$"):
        Workload(kv_home="host", **fields).cells(device)


def test_segments_and_rates_replace_the_schedule():
    found = cells(lengths=(64,), patterns=("dilated",), segment_lengths=(16, 64), dilation_rates=(1, 4))
    assert found == [(64, Dilated((16, 64), (1, 4)))]


def test_sparsities_multiply_block_sparse_patterns_only():
    found = cells(lengths=(512,), patterns=("dense", "local_window"), sparsities=(0.5,))
    assert found == [(512, Dense()), (512, LocalWindow(0.5))]


def test_a_sparsity_becomes_other_parameters_at_every_length():
    found = cells(lengths=(8192, 32768), patterns=PATTERN_NAMES[3:], sparsities=(0.9, 0.95))
    assert found == [
        (length, pattern.of_sparsity(sparsity, length))
        for length in (8192, 32768)
        for pattern in (GlobalWindowRandom, Strided)
        for sparsity in (0.9, 0.95)
    ]
    assert len({pattern for _, pattern in found}) == 8


def test_two_sparsities_that_come_to_the_same_pattern_are_one_cell():
    assert cells(lengths=(512,), patterns=("strided",), sparsities=(0.9, 0.95)) == [
        (512, Strided(1, 20)),
        (512, Strided(1, 40)),
    ]
    assert len(cells(lengths=(512,), patterns=("global_window_random",), sparsities=(0.9, 0.95))) == 1


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"patterns": ("sliding",)},
            PatternError,
            r"pattern is 'sliding', but must be one of dense, dilated, local_window, global",
        ),
        ({"patterns": ("local_window",), "sparsities": (1.5,)}, PatternError, r"sparsity is 1.5, but must be"),
        ({"patterns": ("strided",), "sparsities": (1.0,)}, PatternError, r"sparsity is 1.0, but must be"),
        ({"patterns": ("global_window_random",), "sparsities": (-1.0,)}, PatternError, r"sparsity is -1.0, but must"),
        ({"patterns": ("dilated",), "segment_lengths": (64,)}, PatternError, r"1 entries and dilation_rates 0"),
        ({"patterns": (Dilated((64,), (99,)),)}, PatternError, r"must leave none; add a branch"),
        ({"lengths": (0,)}, ProblemError, r"query_len is 0, but must be a whole number of at least 1"),
        ({"heads": 8, "kv_heads": 3}, ProblemError, r"heads is 8, but must be a multiple of kv_heads, 3"),
        ({"dtype": "int8"}, ProblemError, r"dtype is 'int8', but must be one of"),
        ({"direction": "backward"}, ProblemError, r"direction is 'backward', but must be one of"),
    ],
)
def test_impossible_workloads_are_refused_before_anything_runs(fields, error, message):
    with pytest.raises(error, match=message):
        Workload(**{"lengths": (128,)} | fields).cells(CPU)
