"""The kernel for CPUs in C++: what it folds, into which rows, and out of which."""

import threading
from functools import partial

import pytest
import torch
from contract import GRADIENT_TOLERANCE, row_error
from folding import POISON, assert_lse, draw, fold_once, gradients, nothing_yet, poisoned, softmax, strided, tile

from autotune.strategies import lanes, native
from autotune.strategies.errors import ProblemError
from autotune.strategies.lanes import CpuLanes

KERNEL = CpuLanes()
fold = partial(fold_once, KERNEL)
ROW_TOLERANCE = 2e-6  # a few roundings of float32, whatever the dtype of the operands

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")


def assert_right(result, expected, tolerance=ROW_TOLERANCE):
    (total, lse), (right, right_lse) = result, expected
    assert row_error(total, right) <= tolerance
    assert_lse(lse, right_lse)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 17, 131, 300, 1031])
def test_a_square_is_a_softmax(length, causal):
    operands = draw(*[(1, 2, length, 64)] * 3)
    assert_right(fold(*operands, causal=causal), softmax(*operands, causal=causal))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 33, 96, 512])
def test_any_head_dim(head_dim, causal):
    """At 96 keys are visited 170 at once, so that no block of them but the first begins with a vector of queries."""
    query, key, value = draw(*[(2, 2, 397, head_dim)] * 3)
    operands = query, key, value.abs()  # a sum of one number must not cancel out
    assert_right(fold(*operands, causal=causal), softmax(*operands, causal=causal))


@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (300, 1), (131, 517), (517, 131)])
def test_as_many_queries_and_keys_as_you_like(queries, keys):
    operands = draw((2, 3, queries, 64), (2, 3, keys, 64), (2, 3, keys, 64))
    assert_right(fold(*operands), softmax(*operands))


@pytest.mark.parametrize("queries", [40, 300])
def test_causal_queries_count_from_the_first_key_where_there_are_more_or_fewer(queries):
    operands = draw((1, 2, queries, 64), (1, 2, 131, 64), (1, 2, 131, 64))
    assert_right(fold(*operands, causal=True), softmax(*operands, causal=True))


def test_a_scale_is_a_factor_on_the_scores():
    operands = draw(*[(1, 1, 40, 64)] * 3)
    assert_right(fold(*operands, scale=0.7), softmax(*operands, scale=0.7))


@pytest.mark.parametrize("multiplicity", [1, 3])
@pytest.mark.parametrize("causal", [False, True])
def test_further_keys_are_merged_into_a_running_softmax(causal, multiplicity):
    query, key, value = draw(*[(2, 2, 131, 64)] * 3)
    total, lse = fold(query, *draw((2, 2, 77, 64), (2, 2, 77, 64), seed=1))
    KERNEL.fold(tile(causal=causal, fresh=False, multiplicity=multiplicity), query, key, value, total, lse, 0.125)
    before, before_lse = softmax(query, *draw((2, 2, 77, 64), (2, 2, 77, 64), seed=1))
    added, added_lse = softmax(query, key, value, causal=causal, counts=multiplicity)
    share = torch.sigmoid(added_lse - before_lse).unsqueeze(-1)
    assert_right((total, lse), (before + share * (added - before), torch.logaddexp(before_lse, added_lse)))


def test_the_first_keys_may_count_several_times():
    operands = draw(*[(1, 2, 50, 64)] * 3)
    assert_right(fold(*operands, multiplicity=5), softmax(*operands, counts=5))


def test_a_running_softmax_over_no_keys_is_replaced():
    query, key, value = draw(*[(1, 2, 131, 64)] * 3)
    total, lse = torch.zeros_like(query), torch.full(query.shape[:3], -torch.inf)
    KERNEL.fold(tile(fresh=False), query, key, value, total, lse, 0.125)
    assert_right((total, lse), softmax(query, key, value))


def test_many_folds_are_as_exact_as_one():
    query, key, value = draw((1, 2, 64, 64), (1, 2, 2048, 64), (1, 2, 2048, 64))
    total, lse = nothing_yet(query)
    for number, (keys, values) in enumerate(zip(key.split(32, 2), value.split(32, 2), strict=True)):
        KERNEL.fold(tile(fresh=number == 0), query, keys, values, total, lse, 0.125)
    assert_right((total, lse), softmax(query, key, value))


def test_strides_do_not_matter_and_nothing_beside_the_rows_is_touched():
    query, key, value = draw((2, 2, 131, 64), (2, 2, 150, 64), (2, 2, 150, 64))
    sums, lses = poisoned((3, 300, 7, 80), torch.float32), poisoned((3, 7, 300), torch.float32)
    total, lse = sums[1:, 20:282:2, 1:7:3, 8:72].transpose(1, 2), lses[1:, 1:7:3, 20:282:2]
    written = [torch.zeros(x.shape, dtype=torch.bool) for x in (sums, lses)]
    written[0][1:, 20:282:2, 1:7:3, 8:72] = True
    written[1][1:, 1:7:3, 20:282:2] = True
    for fresh in (True, False):
        KERNEL.fold(tile(fresh=fresh), strided(query), strided(key), strided(value), total, lse, 0.125)
        assert all(
            bool((x.view(torch.int32)[~at] == POISON).all()) for x, at in zip((sums, lses), written, strict=True)
        )
    assert_right((total, lse), softmax(query, key, value, counts=2))


def test_views_may_overlap():
    (x,) = draw((1, 2, 400, 64))
    windows = x.as_strided((5, 2, 96, 64), (64 * 48, x.stride(1), 64 * 2, 1))
    same = x[:, :, :1].expand(5, 2, 96, 64)
    for operands in ((windows, windows, windows), (windows, same, windows), (same, windows, same)):
        assert_right(fold(*operands, causal=True), softmax(*operands, causal=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_then_computed_in_float32(dtype, causal):
    operands = draw(*[(2, 2, 300, 64)] * 3, dtype=dtype)
    assert_right(fold(*map(strided, operands), causal=causal), softmax(*operands, causal=causal))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_number_of_half_precision_is_widened_exactly(dtype):
    """With a single key its weight is one, and the output is its value."""
    value = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).view(1024, 1, 1, 64)
    query = torch.zeros_like(value)
    total, _ = fold(query, query, value)
    assert torch.equal(total.nan_to_num(nan=12345.0), value.float().nan_to_num(nan=12345.0))
    finite = value.isfinite()
    assert torch.equal(
        total[finite].view(torch.int32) & 0x7FFFFFFF, value.float()[finite].view(torch.int32) & 0x7FFFFFFF
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_for_rows_of_half_precision_are_rounded_as_torch_does(dtype):
    """All numbers, and what lies halfway between neighbours: two keys that count alike make it."""
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    query = torch.zeros(1024, 1, 5, 64, dtype=dtype)
    for other in (numbers, numbers.roll(1)):
        value = torch.stack([numbers, other]).unflatten(1, (1024, 1, 64)).movedim(0, 2)
        operands = query, torch.zeros_like(value), value
        (wide, lse), rows, rows_lse = fold(*operands), poisoned(query.shape, dtype), torch.empty(query.shape[:3])
        KERNEL.fold(tile(), *operands, rows, rows_lse, 1.0)
        torch.testing.assert_close(rows, wide.to(dtype), rtol=0, atol=0, equal_nan=True)
        assert rows_lse.equal(lse)


@pytest.mark.parametrize("infinity", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("operand", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 70, 299])
def test_what_is_not_finite_stays_so_where_torch_says_so(operand, at, infinity):
    operands = draw(*[(1, 1, 300, 64)] * 3)
    operands[operand][0, 0, at, 5] = infinity
    right, right_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*operands, 0.0, False)
    total, lse = fold(*operands)
    assert torch.equal(total.isnan(), right.isnan())
    assert torch.equal(lse.isfinite(), right_lse.isfinite())  # infinite there where it is NaN here
    finite = right.isfinite()
    assert torch.allclose(total[finite], right[finite], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [0, 300])
def test_keys_with_scores_of_minus_infinity_are_as_good_as_absent(first):
    """Those that are visited first too: a mask in one of the dimensions of the keys."""
    query, key, value = draw((1, 2, 40, 64), (1, 2, 600, 64), (1, 2, 600, 64))
    query[..., 0] = 1.0
    absent, seen = slice(first, first + 300), slice(300 - first, 600 - first)
    key[:, :, absent, 0] = -torch.inf
    right = softmax(query, key[:, :, seen], value[:, :, seen])
    assert_right(fold(query, key, value), right)
    total, lse = fold(query, key[:, :, seen], value[:, :, seen])
    KERNEL.fold(tile(fresh=False), query, key[:, :, absent], value[:, :, absent], total, lse, 0.125)
    assert_right((total, lse), right)


def test_folds_over_keys_that_are_all_absent_leave_a_softmax_over_none():
    query, key, value = draw(*[(1, 2, 40, 64)] * 3)
    query[..., 0] = 1.0
    absent = key.clone()
    absent[..., 0] = -torch.inf
    total, lse = fold(query, absent, value)
    KERNEL.fold(tile(fresh=False), query, absent, value, total, lse, 0.125)
    assert bool((lse == -torch.inf).all())
    KERNEL.fold(tile(fresh=False), query, key, value, total, lse, 0.125)
    assert_right((total, lse), softmax(query, key, value))


def test_scores_far_below_zero_are_scores_like_others():
    query, key, value = draw(*[(1, 2, 70, 64)] * 3)
    query[:], key[:] = 1.0, -150.0
    assert_right(fold(query, key, value), softmax(query, key, value))


def test_large_scores_do_not_overflow_and_small_weights_vanish():
    query, key, value = draw(*[(1, 2, 131, 64)] * 3)
    rounding = 2**-23 * 100 * float((query @ key.transpose(-1, -2)).abs().max())  # of the largest score
    assert_right(fold(query, key, value, scale=100.0), softmax(query, key, value, scale=100.0), rounding)
    query[:], key[:] = 1.0, 0.0
    key[:, :, 3], key[:, :, 4], key[:, :, 5] = 1e4 / 64, (1e4 - 20) / 64, -1e4 / 64
    assert_right(fold(query, key, value, scale=1.0), softmax(query, key, value, scale=1.0))


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


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v: (q, k, v[:, :, 1:]),
        lambda q, k, v: (q, k[..., 1:], v[..., 1:]),
        lambda q, k, v: (q, k[:, :1], v[:, :1]),
        lambda q, k, v: (q, k.half(), v.half()),
        lambda q, k, v: (q.double(), k.double(), v.double()),
        lambda q, k, v: (q.to("meta"), k.to("meta"), v.to("meta")),
    ],
)
def test_operands_that_do_not_go_together_are_refused_and_not_read(change):
    query, key, value = change(*draw(*[(1, 2, 40, 64)] * 3))
    with pytest.raises(ProblemError, match=r"query, key and value are .* but kernel lanes takes"):
        fold(query, key, value)


@pytest.mark.parametrize(("total", "fresh"), [("bfloat16", False), ("float16", True), ("float64", True)])
def test_rows_that_would_be_rounded_too_early_or_to_another_dtype_are_refused(total, fresh):
    query, key, value = draw(*[(1, 2, 40, 64)] * 3, dtype=torch.bfloat16)
    rows = torch.zeros(query.shape, dtype=getattr(torch, total))
    with pytest.raises(ProblemError, match=rf"total is torch\.{total}, but must be float32, or torch\.bfloat16 if"):
        KERNEL.fold(tile(fresh=fresh), query, key, value, rows, torch.zeros(1, 2, 40), 0.125)


def test_a_library_shows_nothing_but_its_function():
    """Names that libraries for other head_dims have too could be taken from whichever was loaded first."""
    library = native.library(lanes.SOURCE, HEAD_DIM=64, ELEMENT="float", SCRATCH_BYTES=lanes.SCRATCH_BYTES)
    assert library.fold
    shared = [f"_Z5scoreILi{rows}EEvPKfS1_Pf" for rows in range(1, 13)]
    assert [name for name in shared if hasattr(library, name)] == []


def assert_gradients(found, expected):
    for mine, right in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        error = (mine.double() - right).norm(dim=(-1, -2)) / right.norm(dim=(-1, -2))
        assert float(error.max()) <= ROW_TOLERANCE


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "head_dim"), [(17, 64), (131, 64), (1031, 64), (397, 33), (300, 96), (40, 512)])
def test_the_way_back_is_the_gradient(length, head_dim, causal):
    query, key, value, grad = draw(*[(2, 2, length, head_dim)] * 4)
    out, lse = fold(query, key, value, causal=causal)
    found = KERNEL.backward(grad, query, key, value, out, lse, causal, head_dim**-0.5)
    assert_gradients(found, gradients(query, key, value, grad, causal=causal))


@pytest.mark.parametrize(("queries", "keys"), [(1, 300), (300, 2), (131, 517)])
def test_the_way_back_of_as_many_queries_and_keys_as_you_like(queries, keys):
    query, grad, key, value = draw(*[(1, 3, queries, 64)] * 2, *[(1, 3, keys, 64)] * 2)
    out, lse = fold(query, key, value, scale=0.3)
    found = KERNEL.backward(grad, query, key, value, out, lse, False, 0.3)
    assert_gradients(found, gradients(query, key, value, grad, scale=0.3))


def test_the_shares_of_two_sets_of_keys_are_the_gradient_of_their_softmax():
    query, grad, key, value = draw(*[(1, 2, 131, 64)] * 2, *[(1, 2, 400, 64)] * 2)
    out, lse = fold(query, key, value)
    parts = [
        KERNEL.backward(grad, query, keys, values, out, lse, False, 0.125)
        for keys, values in zip(key.split(150, 2), value.split(150, 2), strict=True)
    ]
    d_query, d_key, d_value = zip(*parts, strict=True)
    found = sum(d_query), torch.cat(d_key, 2), torch.cat(d_value, 2)
    assert_gradients(found, gradients(query, key, value, grad))


def test_strides_do_not_matter_on_the_way_back():
    query, grad, key, value = draw(*[(2, 2, 131, 64)] * 2, *[(2, 2, 150, 64)] * 2)
    out, lse = fold(query, key, value)
    apart = strided(lse.unsqueeze(-1)).squeeze(-1)
    found = KERNEL.backward(*map(strided, (grad, query, key, value, out)), apart, False, 0.125)
    assert_gradients(found, gradients(query, key, value, grad))
    expanded = torch.ones(1, 1, 1, 1).expand(2, 2, 131, 64)
    assert_gradients(
        KERNEL.backward(expanded, query, key, value, out, lse, False, 0.125), gradients(query, key, value, expanded)
    )


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("stride", [32, 48, 96, 200])
def test_gradients_are_added_where_they_belong_also_where_windows_share_keys(stride, step):
    """And nothing beside them is touched."""
    length = 5 * stride + 96 * step
    key, value, query, grad = draw(*[(1, 2, length, 64)] * 2, *[(5, 2, 40, 64)] * 2)
    windows = [x.as_strided((5, 2, 96, 64), (stride * 64, x.stride(1), step * 64, 1)) for x in (key, value)]
    out, lse = fold(query, *windows)
    before = draw(*[(1, 2, length, 72)] * 2, (5, 2, 40, 72), seed=1)
    found = [x.clone() for x in before]
    d_key, d_value = (x.as_strided((5, 2, 96, 64), (stride * 72, x.stride(1), step * 72, 1)) for x in found[:2])
    KERNEL.unfold(grad, query, *windows, out, lse, False, 0.125, found[2][..., :64], d_key, d_value)

    share = gradients(query, *windows, grad)
    expected = [x.double() for x in before]
    expected[2][..., :64] += share[0]
    for x, its in zip(expected, share[1:], strict=False):
        for window in range(5):
            first = window * stride
            x[:, :, first : first + 96 * step : step, :64] += its[window]
    assert all(torch.equal(x[..., 64:], y[..., 64:]) for x, y in zip(found, before, strict=True))
    for mine, right in zip(found, expected, strict=True):
        assert float((mine - right).abs().max()) <= ROW_TOLERANCE * float(right.abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_way_back_of_half_precision_rounds_nothing_but_its_operands(dtype):
    query, key, value, grad = draw(*[(1, 2, 131, 64)] * 4, dtype=dtype)
    out, lse = fold(query, key, value)
    found = KERNEL.backward(grad, query, key, value, out.to(dtype), lse, False, 0.125)
    limit = GRADIENT_TOLERANCE[str(dtype).removeprefix("torch.")]
    for mine, right in zip(found, gradients(query, key, value, grad), strict=True):
        assert float((mine - right).norm() / right.norm()) <= limit
