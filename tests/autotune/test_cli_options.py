"""Words typed become a workload of exactly those cells."""

from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch

from autotune.cells import DEFAULT_PATTERNS
from autotune.cli_options import MaskError, suite_workloads, workload
from autotune.strategies.errors import PatternError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_layout import BlockLayout
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.pattern_global_window_random import GlobalWindowRandom
from autotune.strategies.pattern_strided import Strided
from autotune.strategies.suite_efficiency import EFFICIENCY, LONG, SHORT, WINDOWS
from autotune.strategies.suite_extreme import EXTREME
from autotune.units import UnitError

CPU = torch.device("cpu")
WORDS = {
    "lengths": "4096",
    "patterns": ("dense",),
    "batch": 1,
    "heads": 8,
    "kv_heads": None,
    "head_dim": 64,
    "dtype": None,
    "causal": False,
    "direction": "forward",
    "sparsity": "0.9,0.95",
    "segment_lengths": None,
    "dilation_rates": None,
}


def patterns(**words):
    return [cell.pattern for cell in workload(**WORDS | words).cells(CPU)]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("4096,8192", [4096, 8192]),
        ("8k,4k", [4096, 8192]),
        ("4k:32k", [4096, 8192, 16384, 32768]),
        ("1000", [1000]),
        ("1m", [1 << 20]),
        ("4k,4096", [4096]),
        ("3k:13k", [3072, 6144, 12288]),
        (None, [4096, 8192]),
    ],
)
def test_lengths_are_lists_and_doubling_ranges_run_shortest_first(text, lengths):
    cells = workload(**WORDS | {"lengths": text}).cells(CPU)
    assert [cell.problem.query_len for cell in cells] == lengths
    assert [cell.problem.kv_len for cell in cells] == lengths


def test_no_pattern_named_means_exact_dilated_and_each_window():
    assert workload(**WORDS | {"patterns": ()}).patterns == DEFAULT_PATTERNS
    assert patterns(patterns=()) == [Dense(), Dilated.longnet(4096), LocalWindow(0.9), LocalWindow(0.95)]


def test_the_dilated_pattern_is_longnets_unless_its_branches_are_named():
    assert patterns(patterns=("dilated",)) == [Dilated.longnet(4096)]
    named = {"patterns": ("dilated",), "segment_lengths": "1k,4k", "dilation_rates": "1,2"}
    assert patterns(**named) == [Dilated((1024, 4096), (1, 2))]


@pytest.mark.parametrize("names", [{"segment_lengths": "1k"}, {"dilation_rates": "1"}], ids=["lengths", "rates"])
def test_half_a_dilated_pattern_is_an_error(names):
    with pytest.raises(PatternError):
        patterns(patterns=("dilated",), **names)


def test_patterns_of_blocks_follow_the_sparsities_and_the_length():
    found = patterns(patterns=("global_window_random", "strided"), sparsity="0.5")
    assert found == [GlobalWindowRandom.of_sparsity(0.5, 4096), Strided.of_sparsity(0.5, 4096)]


def test_windows_follow_the_sparsities():
    assert patterns(patterns=("local_window",), sparsity="0.5, 0.99") == [LocalWindow(0.5), LocalWindow(0.99)]


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ({"batch": 3}, "batch", 3),
        ({"heads": 12}, "kv_heads", 12),
        ({"heads": 12, "kv_heads": 4}, "kv_heads", 4),
        ({"head_dim": 80}, "head_dim", 80),
        ({}, "dtype", "float32"),
        ({"dtype": "bfloat16"}, "dtype", "bfloat16"),
        ({"causal": True}, "causal", True),
        ({"direction": "training"}, "direction", "training"),
        ({}, "device", "cpu"),
    ],
)
def test_shape_options_reach_the_problem(words, field, value):
    (cell,) = workload(**WORDS | words).cells(CPU)
    assert getattr(cell.problem, field) == value


def test_the_home_of_keys_reaches_the_problem():
    (cell,) = workload(**WORDS, kv_home="host").cells(torch.device("cuda"))
    assert cell.problem.kv_home == "host"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"sparsity": "0.9;0.95"}, "sparsity is '0.9;0.95'"),
        ({"sparsity": ""}, "sparsity is ''"),
        ({"segment_lengths": "1k", "dilation_rates": "1.5"}, "dilation-rates is '1.5'"),
        ({"segment_lengths": "x", "dilation_rates": "1"}, "'x'"),
        ({"lengths": "4k:"}, "''"),
    ],
)
def test_lists_that_cannot_be_read_are_named(words, named):
    with pytest.raises(UnitError, match=named):
        workload(**WORDS | words)


class TestBlockMask:
    """A pattern that is a file."""

    def test_is_the_callers_own_layout(self, tmp_path):
        mask = np.tri(32, dtype=bool)
        np.save(tmp_path / "mask.npy", mask)
        found = patterns(patterns=("dense", str(tmp_path / "mask.npy")))
        assert found == [Dense(), BlockLayout.from_mask(torch.from_numpy(mask))]

    def test_is_for_lengths_of_as_many_blocks(self, tmp_path):
        np.save(tmp_path / "mask.npy", np.eye(31, dtype=bool))
        with pytest.raises(PatternError, match="kv_len is 4096, but this block_layout of 31 blocks"):
            patterns(patterns=(str(tmp_path / "mask.npy"),))

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            (None, MaskError, "mask.npy cannot be read"),
            (b"", MaskError, "cannot be read"),
            (b"0 1\n1 0\n", MaskError, "cannot be read"),
            (np.eye(32), MaskError, "holds float64, but must hold booleans"),
            (np.ones((2, 3), bool), PatternError, "must be .blocks, blocks."),
            (np.ones(3, bool), PatternError, "must be .blocks, blocks."),
            (np.zeros((2, 2), bool), PatternError, "query block 0 sees no key block"),
        ],
        ids=["missing", "empty", "text", "numbers", "oblong", "flat", "zeros"],
    )
    def test_that_is_none_is_refused_in_one_line(self, tmp_path, content, error, message):
        path = tmp_path / "mask.npy"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        with pytest.raises(error, match=message) as caught:
            patterns(patterns=(str(path),))
        assert "\n" not in str(caught.value)


class TestSuites:
    """The workloads of a suite."""

    WORDS: ClassVar = {
        name: WORDS[name] for name in WORDS if name not in ("lengths", "patterns", "direction", "sparsity")
    }

    def cells(self, suite, lengths=None, direction=None, **words):
        workloads = suite_workloads(suite, lengths=lengths, direction=direction, **self.WORDS | words)
        return [
            (cell.problem.direction, cell.problem.kv_len, cell.pattern)
            for work in workloads
            for cell in work.cells(CPU)
        ]

    def test_have_lengths_and_directions_of_their_own(self):
        found = self.cells(EFFICIENCY)
        assert {(direction, length) for direction, length, _ in found} == set(
            product(("forward", "training"), (8192, 32768, 65536, 131072))
        )
        assert {pattern for _, length, pattern in found if length == 65536} == {Dense(), SHORT}
        assert {length for _, length, _ in self.cells(EXTREME)} == {4096 * 2**doubling for doubling in range(7)}
        assert {direction for direction, *_ in self.cells(EXTREME)} == {"forward"}

    def test_take_every_pattern_at_lengths_that_are_named(self):
        found = self.cells(EFFICIENCY, lengths="1k,64k", direction="training")
        assert set(found) == set(product(("training",), (1024, 65536), (Dense(), LONG, SHORT, *WINDOWS)))

    def test_take_the_parameters_of_a_pattern_that_is_a_word(self):
        found = self.cells(EXTREME, lengths="4k", segment_lengths="1k", dilation_rates="1")
        assert Dilated((1024,), (1,)) in [pattern for *_, pattern in found]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ({"segment_lengths": "1k"}, "segment-lengths is '1k', but suite efficiency has branches of its own"),
            ({"dilation_rates": "1"}, "dilation-rates is '1', but suite efficiency has branches of its own"),
        ],
    )
    def test_refuse_what_would_change_nothing(self, words, message):
        with pytest.raises(UnitError, match=message):
            self.cells(EFFICIENCY, **words)
