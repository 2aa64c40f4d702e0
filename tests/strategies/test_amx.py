"""The kernel for CPUs with AMX: what it folds, to what it rounds, and what it leaves of the tiles of others."""

import ctypes
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from contract import GRADIENT_TOLERANCE, row_error
from folding import POISON, assert_lse, draw, fold_once, gradients, poisoned, softmax, strided, tile

from autotune.strategies import amx, native
from autotune.strategies.amx import CpuAmx, has_amx
from autotune.strategies.errors import ProblemError, UnsupportedError
from autotune.strategies.kernel_choice import kernel_by_name, kernel_names
from autotune.strategies.problem import Problem

KERNEL = CpuAmx()
PROBLEM = Problem.self_attention(64, dtype="bfloat16")
ROUNDING = torch.finfo(torch.bfloat16).eps / 2  # of a weight, relative to it
FLOAT32 = 2e-6  # roundings of float32 beside it

fold = partial(fold_once, KERNEL)
draw = partial(draw, dtype=torch.bfloat16)
needs_amx = pytest.mark.skipif(not has_amx() or native.compiler() is None, reason="no AMX here, or no C++ compiler")


def assert_right(result, operands, **options):
    """No number is further off than if every weight were rounded the wrong way."""
    (total, lse), (right, right_lse) = result, softmax(*operands, **options)
    query, key, value = operands
    sizes, _ = softmax(query, key, value.abs(), **options)
    assert bool(((total.double() - right).abs() <= (ROUNDING + FLOAT32) * sizes).all())
    assert_lse(lse, right_lse)


@needs_amx
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 16, 17, 31, 33, 131, 300, 513, 1031])
def test_a_square_is_a_softmax(length, causal):
    operands = draw(*[(1, 2, length, 64)] * 3)
    assert_right(fold(*operands, causal=causal), operands, causal=causal)


@needs_amx
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 15, 32, 33, 80, 96, 128, 512])
def test_any_head_dim(head_dim, causal):
    operands = draw(*[(2, 2, 397, head_dim)] * 3)
    assert_right(fold(*operands, causal=causal), operands, causal=causal)


@needs_amx
@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (300, 1), (131, 1217), (517, 131)])
@pytest.mark.parametrize("causal", [False, True])
def test_as_many_queries_and_keys_as_you_like(queries, keys, causal):
    operands = draw((2, 3, queries, 64), (2, 3, keys, 64), (2, 3, keys, 64))
    assert_right(fold(*operands, causal=causal), operands, causal=causal)


@needs_amx
@pytest.mark.parametrize("keys", [1, 2, 31, 130, 600])
def test_weights_that_need_no_rounding_give_what_float32_gives(keys):
    """Equal scores, and sums of few numbers: a key that is paired with another's value would show in full."""
    query, key, value = draw((1, 2, 50, 64), (1, 2, keys, 64), (1, 2, keys, 64))
    query.zero_()
    total, _ = fold(query, key, value.abs())
    assert row_error(total, softmax(query, key, value.abs())[0]) <= FLOAT32


@needs_amx
def test_a_scale_is_a_factor_on_the_scores():
    operands = draw(*[(1, 1, 40, 64)] * 3)
    assert_right(fold(*operands, scale=0.7), operands, scale=0.7)


@needs_amx
@pytest.mark.parametrize("multiplicity", [1, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_further_keys_are_merged_into_a_running_softmax(causal, multiplicity):
    query, key, value = draw(*[(2, 2, 131, 64)] * 3)
    first = draw((2, 2, 77, 64), (2, 2, 77, 64), seed=1)
    total, lse = fold(query, *first)
    KERNEL.fold(tile(causal=causal, fresh=False, multiplicity=multiplicity), query, key, value, total, lse, 0.125)
    before, before_lse = softmax(query, *first)
    added, added_lse = softmax(query, key, value, causal=causal, counts=multiplicity)
    share = torch.sigmoid(added_lse - before_lse).unsqueeze(-1)
    assert row_error(total, before + share * (added - before)) <= 2 * ROUNDING
    assert_lse(lse, torch.logaddexp(before_lse, added_lse))


@needs_amx
@pytest.mark.parametrize("head_dim", [64, 40])
def test_results_for_rows_of_half_precision_are_rounded_at_the_end(head_dim):
    operands = draw((2, 3, 131, head_dim), (2, 3, 517, head_dim), (2, 3, 517, head_dim))
    (wide, lse), rows, rows_lse = fold(*operands), strided(operands[0]), torch.empty(2, 3, 131)
    KERNEL.fold(tile(), *operands, rows, rows_lse, head_dim**-0.5)
    assert rows.equal(wide.bfloat16())
    assert rows_lse.equal(lse)


@needs_amx
def test_a_running_softmax_over_no_keys_is_replaced():
    operands = draw(*[(1, 2, 131, 64)] * 3)
    total, lse = torch.zeros(1, 2, 131, 64), torch.full((1, 2, 131), -torch.inf)
    KERNEL.fold(tile(fresh=False), *operands, total, lse, 0.125)
    assert_right((total, lse), operands)


@needs_amx
@pytest.mark.parametrize("head_dim", [64, 40])
def test_strides_do_not_matter_and_nothing_beside_the_rows_is_touched(head_dim):
    """Nor is anything beside them read into a result: it is NaN."""
    query, key, value = draw((2, 2, 131, head_dim), (2, 2, 150, head_dim), (2, 2, 150, head_dim))
    sums, lses = poisoned((3, 300, 7, 80), torch.float32), poisoned((3, 7, 300), torch.float32)
    columns = slice(8, 8 + head_dim)
    total, lse = sums[1:, 20:282:2, 1:7:3, columns].transpose(1, 2), lses[1:, 1:7:3, 20:282:2]
    written = [torch.zeros(x.shape, dtype=torch.bool) for x in (sums, lses)]
    written[0][1:, 20:282:2, 1:7:3, columns] = True
    written[1][1:, 1:7:3, 20:282:2] = True
    KERNEL.fold(tile(fresh=True), strided(query), strided(key), strided(value), total, lse, head_dim**-0.5)
    assert all(bool((x.view(torch.int32)[~at] == POISON).all()) for x, at in zip((sums, lses), written, strict=True))
    assert_right((total, lse), (query, key, value))


@needs_amx
def test_views_may_overlap():
    (x,) = draw((1, 2, 400, 64))
    windows = x.as_strided((5, 2, 96, 64), (64 * 48, x.stride(1), 64 * 2, 1))
    same = x[:, :, :1].expand(5, 2, 96, 64)
    for operands in ((windows, windows, windows), (windows, same, windows), (same, windows, same)):
        assert_right(fold(*operands, causal=True), operands, causal=True)


@needs_amx
@pytest.mark.parametrize("infinity", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 70, 299])
def test_what_is_not_finite_stays_so_where_the_definition_says_so(operand, at, infinity):
    operands = draw(*[(1, 1, 300, 64)] * 3)
    operands[operand][0, 0, at, 5] = infinity
    (total, lse), (right, right_lse) = fold(*operands), softmax(*operands)
    assert torch.equal(total.isfinite(), right.isfinite())
    assert torch.equal(lse.isfinite(), right_lse.isfinite())
    assert torch.equal(lse == -torch.inf, right_lse == -torch.inf)


@needs_amx
@pytest.mark.parametrize("first", [0, 600])
def test_keys_with_scores_of_minus_infinity_are_as_good_as_absent(first):
    """Those that are visited first too: a mask in one of the dimensions of the keys."""
    query, key, value = draw((1, 2, 40, 64), (1, 2, 1200, 64), (1, 2, 1200, 64))
    query[..., 0] = 1.0
    absent, seen = slice(first, first + 600), slice(600 - first, 1200 - first)
    key[:, :, absent, 0] = -torch.inf
    there = query, key[:, :, seen], value[:, :, seen]
    assert_right(fold(query, key, value), there)
    total, lse = fold(*there)
    KERNEL.fold(tile(fresh=False), query, key[:, :, absent], value[:, :, absent], total, lse, 0.125)
    assert_right((total, lse), there)


@needs_amx
def test_large_scores_do_not_overflow_and_small_weights_vanish():
    query, key, value = draw(*[(1, 2, 131, 64)] * 3)
    query[:], key[:] = 1.0, 0.0
    key[:, :, 3], key[:, :, 4], key[:, :, 5] = 1e4 / 64, (1e4 - 20) / 64, -1e4 / 64
    assert_right(fold(query, key, value, scale=1.0), (query, key, value), scale=1.0)


@needs_amx
@pytest.mark.parametrize("size", [1e3, 3e4, 1e8])
def test_scores_of_any_size_keep_the_largest_weight_at_one(size):
    query, key, value = draw(*[(1, 2, 131, 64)] * 3)
    operands = query * size, key * size, value
    assert_right(fold(*operands), operands)


@needs_amx
def test_scores_far_below_zero_are_scores_like_others():
    query, key, value = draw(*[(1, 2, 70, 64)] * 3)
    query[:], key[:] = 1.0, -150.0
    assert_right(fold(query, key, value), (query, key, value))


@needs_amx
def test_values_of_an_earlier_block_do_not_reach_a_later_one():
    """Whose weights beyond its last key are zero: they would be multiplied by NaN."""
    query, key, value = draw(*[(1, 1, 64, 64)] * 3)
    fold(query, key, value * torch.nan)
    operands = query, key[:, :, :33], value[:, :, :33]
    assert_right(fold(*operands), operands)


@needs_amx
def test_threads_change_nothing():
    operands, before = draw(*[(2, 3, 700, 64)] * 3), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            found.append(fold(*operands, causal=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for result in found for x, y in zip(result, found[0], strict=True))


@needs_amx
def test_calls_of_two_threads_do_not_meet():
    calls = [draw(*[(1, 2, 300, 64)] * 3, seed=seed) for seed in range(2)]
    alone, wrong = [fold(*call)[0] for call in calls], []

    def work(number):
        wrong.extend(number for _ in range(50) if not torch.equal(fold(*calls[number])[0], alone[number]))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@needs_amx
def test_torchs_own_tiles_are_as_it_left_them():
    left, right = draw((77, 96), (96, 45), seed=3)
    operands = draw(*[(1, 2, 300, 64)] * 3)
    product, attended = left @ right, torch.nn.functional.scaled_dot_product_attention(*operands)
    for _ in range(3):
        assert_right(fold(*operands), operands)
        assert torch.equal(left @ right, product)
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(*operands), attended)


TILES = """
#include <immintrin.h>
extern "C" void release() { _tile_release(); }
extern "C" void set_up(const void* shapes) { _tile_loadconfig(shapes); }
extern "C" void look_up(void* shapes) { _tile_storeconfig(shapes); }
"""


@needs_amx
@pytest.mark.parametrize("rows", [3, None])
def test_tiles_of_others_on_the_thread_are_set_up_again_or_none(tmp_path, monkeypatch, rows):
    fold(*draw(*[(1, 2, 300, 64)] * 3))  # which asks the system for tiles
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiles.cpp").write_text(TILES)
    tiles = native.library(tmp_path / "tiles.cpp", *amx.FLAGS)
    shapes = bytearray(64)
    if rows:
        shapes[0], shapes[16], shapes[48] = 1, 4 * rows, rows  # palette, bytes and rows of the first tile
        tiles.set_up((ctypes.c_char * 64).from_buffer(shapes))
    else:
        tiles.release()
    fold(*draw(*[(1, 2, 300, 64)] * 3))
    found = bytearray(64)
    tiles.look_up((ctypes.c_char * 64).from_buffer(found))
    tiles.release()
    assert found == shapes


@needs_amx
@pytest.mark.parametrize("causal", [False, True])
def test_the_way_back_rounds_nothing_but_its_operands(causal):
    query, key, value, grad = draw(*[(1, 2, 131, 64)] * 4)
    out, lse = fold(query, key, value, causal=causal)
    found = KERNEL.backward(grad, query, key, value, out.bfloat16(), lse, causal, 0.125)
    for mine, right in zip(found, gradients(query, key, value, grad, causal=causal), strict=True):
        assert float((mine - right).norm() / right.norm()) <= GRADIENT_TOLERANCE["bfloat16"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_are_refused_and_not_read(dtype):
    operands = [x.to(dtype) for x in draw(*[(1, 2, 40, 64)] * 3)]
    with pytest.raises(ProblemError, match=r"kernel amx takes them on the CPU, of one dtype among bfloat16,"):
        fold(*operands)


class TestWhereItRuns:
    """By processor, by what the user allows, and by what the system does."""

    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch, tmp_path):
        """One with AMX, on which nothing is forbidden."""
        (tmp_path / "cpuinfo").write_text("flags : avx512f avx512_bf16 amx_bf16 amx_tile\n")
        monkeypatch.setattr(amx, "CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr("autotune.strategies.lanes.compiler", lambda: ("c++",))
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        has_amx.cache_clear()
        yield
        has_amx.cache_clear()

    def test_it_is_a_choice_for_bfloat16(self):
        assert kernel_names(PROBLEM) == ("flash", "lanes", "amx")
        assert "amx" not in kernel_names(Problem.self_attention(64, dtype="float16"))
        assert "amx" not in kernel_names(Problem.self_attention(64))

    @pytest.mark.parametrize(
        ("allowed", "there"),
        [("AVX512_CORE_BF16", False), ("avx2", False), ("AVX512_CORE_AMX", True), ("ALL", True), ("default", True)],
    )
    def test_the_remedy_for_processors_that_lie_about_amx_holds_for_it_too(self, monkeypatch, allowed, there):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
        assert ("amx" in kernel_names(PROBLEM)) == there

    def test_other_processors_are_told_so(self, tmp_path):
        (tmp_path / "cpuinfo").write_text("flags : avx512f avx512_bf16\n")
        with pytest.raises(UnsupportedError, match="kernel amx needs a processor with AMX"):
            kernel_by_name(PROBLEM, "amx")
        (tmp_path / "cpuinfo").unlink()
        has_amx.cache_clear()
        assert "amx" not in kernel_names(PROBLEM)

    def test_torch_held_below_avx512_holds_it_back_too(self, monkeypatch):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
        assert "amx" not in kernel_names(PROBLEM)

    def test_a_system_that_refuses_its_registers_is_named(self, monkeypatch):
        monkeypatch.setattr(amx, "library", lambda *_, **__: SimpleNamespace(permitted=lambda: 0))
        amx._fold.cache_clear()
        with pytest.raises(UnsupportedError, match="the system does not let this process use"):
            KERNEL.fold_of("bfloat16", 64)
