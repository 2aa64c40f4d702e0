"""`autotune.attention` runs what the database says, computes what was asked, and `explain` tells the truth about it."""

import math
import sqlite3
import warnings
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import autotune
from autotune import Config, Dense, Dilated, LocalWindow, Problem, binding, current
from autotune.db.records import Status
from autotune.db.store import Store
from autotune.decision import NothingFitsError
from autotune.environment import environment_of
from autotune.knowledge import AutotuneWarning
from autotune.selector import Selector
from autotune.strategies.catalog import default_config, supported
from autotune.strategies.errors import AutotuneError, PatternError, ProblemError, UnsupportedError
from autotune.strategies.reference import reference_rows
from autotune.units import format_bytes

from .records import CPU, MIB, failed, fill, ok

DENSE = Dense()
DILATED = Dilated((64, 200), (1, 3))
WINDOW = LocalWindow(0.7, block_size=32)
PATTERNS = (DENSE, DILATED, WINDOW)
IDS = ("dense", "dilated", "local_window")

# Where it can be told apart without compiling, the hand-made measurements favour another than the default.
SMALL = Problem.self_attention(256)
DEFAULTS = {pattern: default_config(SMALL, pattern) for pattern in PATTERNS}
BEST = {
    DENSE: Config.of("sdpa", backend="math", compile="off"),
    DILATED: Config.of("ring", chunk_size=128, compile="off"),
    WINDOW: DEFAULTS[WINDOW],
}
SLOW = {**DEFAULTS, WINDOW: Config.of("flex", compile="default")}
pytestmark = pytest.mark.filterwarnings("ignore::autotune.knowledge.AutotuneWarning")
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def database(tmp_path, monkeypatch):
    """The path of a database that does not exist yet, and that `attention` reads."""
    path = tmp_path / "t.db"
    monkeypatch.setenv("AUTOTUNE_DB", str(path))
    current.reload()
    yield path
    current.reload()


@pytest.fixture
def ran(monkeypatch):
    """The configurations that were really called, in order."""
    called = []
    build = binding.build

    def spy(problem, pattern, config):
        attend = build(problem, pattern, config)

        def call(*arguments, **options):
            called.append((pattern, config))
            return attend(*arguments, **options)

        return call

    monkeypatch.setattr(binding, "build", spy)
    return called


def tensors(problem, *, grad=False, seed=0):
    """Query, key and value of a problem."""
    generator = torch.Generator().manual_seed(seed)
    query = (problem.batch, problem.heads, problem.query_len, problem.head_dim)
    key = (problem.batch, problem.kv_heads, problem.kv_len, problem.head_dim)
    made = [torch.randn(shape, generator=generator).to(problem.torch_dtype) for shape in (query, key, key)]
    return [tensor.requires_grad_(grad) for tensor in made]


def oracle(problem, pattern, query, key, value, **options):
    return reference_rows(problem, pattern, query, key, value, torch.arange(problem.query_len), **options)


def assert_close(actual, expected):
    """Every row within the tolerance of the dtype."""
    error = torch.linalg.vector_norm(actual.double() - expected, dim=-1)
    assert actual.shape == expected.shape
    assert (error <= TOLERANCE[actual.dtype] * torch.linalg.vector_norm(expected, dim=-1).clamp_min(1e-2)).all()


def both(pattern, problem=SMALL):
    """Two configurations measured, the second as the faster one."""
    return [(problem, pattern, SLOW[pattern], ok(9.0)), (problem, pattern, BEST[pattern], ok(2.0))]


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
def test_the_best_stored_configuration_runs_and_is_right(database, ran, pattern):
    _, best_id = fill(database, both(pattern))
    query, key, value = tensors(SMALL)
    decision = autotune.explain(query, key, value, pattern=pattern)
    assert (decision.config, decision.source) == (BEST[pattern], "measured")
    assert decision.record.id == best_id
    assert f"measurement {best_id} " in decision.text
    assert decision.predicted_ms == 2.0
    assert decision.margin == pytest.approx(3.5)
    assert ran == []
    assert_close(autotune.attention(query, key, value, pattern=pattern), oracle(SMALL, pattern, query, key, value))
    assert ran == [(pattern, BEST[pattern])]


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
def test_an_odd_shape_runs_what_was_best_at_its_neighbour_forward_and_backward(database, ran, pattern):
    _, best_id = fill(database, both(pattern, Problem.self_attention(512)))
    odd = Problem.self_attention(1000, batch=2, heads=12, head_dim=80, direction="training")
    query, key, value = tensors(odd, grad=True)
    decision = autotune.explain(query, key, value, pattern=pattern)
    assert (decision.config, decision.source, decision.record.id) == (BEST[pattern], "neighbour", best_id)
    assert decision.problem == odd
    assert decision.pattern == pattern
    out = autotune.attention(query, key, value, pattern=pattern)
    assert ran == [(pattern, BEST[pattern])]

    rows = torch.tensor([0, 1, 63, 64, 511, 997, 999])
    grad = torch.zeros_like(out)
    grad[:, :, rows] = torch.randn(grad[:, :, rows].shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, (query, key, value), grad)
    doubles = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    expected = reference_rows(odd, pattern, *doubles, rows)
    assert_close(out.detach()[:, :, rows], expected.detach())
    for actual, wanted in zip(
        gradients, torch.autograd.grad(expected, doubles, grad[:, :, rows].double()), strict=True
    ):
        assert torch.linalg.vector_norm(actual - wanted) <= 2e-5 * torch.linalg.vector_norm(wanted)
        assert wanted.any()


def test_another_geometry_of_the_same_pattern_is_a_neighbour_but_its_function_is_not_computed(database):
    fill(database, both(DILATED))
    other = Dilated((128, 256), (1, 2))
    query, key, value = tensors(SMALL)
    decision = autotune.explain(query, key, value, pattern=other)
    assert (decision.source, decision.pattern, decision.config) == ("neighbour", other, BEST[DILATED])
    assert_close(autotune.attention(query, key, value, pattern=other), oracle(SMALL, other, query, key, value))


# Fastest first: the window needs most memory, dense the least.
CONTEST = [(WINDOW, 1.0, 100), (DILATED, 2.0, 50), (DENSE, 3.0, 10)]


@pytest.fixture
def contest(database):
    """Three functions measured; returns the ids by pattern."""
    ids = fill(database, [(SMALL, pattern, DEFAULTS[pattern], ok(ms, mib)) for pattern, ms, mib in CONTEST])
    return dict(zip((pattern for pattern, _, _ in CONTEST), ids, strict=True))


@pytest.mark.parametrize(
    ("limit_mib", "winner"), [(1000, WINDOW), (100, WINDOW), (99, DILATED), (50, DILATED), (49, DENSE), (10, DENSE)]
)
@pytest.mark.parametrize("order", [PATTERNS, PATTERNS[::-1]], ids=["preferred_first", "preferred_last"])
def test_of_the_accepted_functions_the_fastest_that_fits_runs(contest, ran, limit_mib, winner, order):
    query, key, value = tensors(SMALL)
    out = autotune.attention(query, key, value, accept=list(order), memory_limit=limit_mib * MIB)
    assert ran == [(winner, DEFAULTS[winner])]
    assert_close(out, oracle(SMALL, winner, query, key, value))
    decision = autotune.explain(query, key, value, accept=list(order), memory_limit=limit_mib * MIB)
    assert (decision.pattern, decision.record.id) == (winner, contest[winner])
    too_large = [pattern for pattern, _, mib in CONTEST if mib > limit_mib]
    assert len(decision.rejected) == 2
    for pattern in too_large:
        assert any(one.pattern == pattern and "needs" in one.text for one in decision.rejected)


@pytest.mark.parametrize(
    "patterns", [PATTERNS, (WINDOW, DILATED), (DENSE,)], ids=["all", "without_dense", "dense_only"]
)
def test_a_limit_that_nothing_meets_names_the_smallest_need(contest, patterns):
    needs = [
        strategy.memory_bytes(SMALL, pattern, config)
        for pattern in patterns
        for strategy in supported(SMALL, pattern).values()
        for config in _untried(strategy.space(SMALL, pattern), DEFAULTS[pattern])
    ]
    with pytest.raises(NothingFitsError) as caught:
        autotune.attention(*tensors(SMALL), accept=patterns, memory_limit=1024)
    assert str(caught.value).startswith("memory limit is 1.00 KiB")
    assert f" needs {format_bytes(min(needs))}; raise the limit" in str(caught.value)
    assert isinstance(caught.value, MemoryError)


def _untried(space, measured):
    """What of a strategy may run unmeasured: what needs no compiler, and its default."""
    plain = [config for config in space if config.string("compile", "off") == "off"]
    return {*plain, space.default} - {measured}


def test_a_limit_of_nothing_is_a_limit(contest):
    query, key, value = tensors(SMALL)
    with pytest.raises(NothingFitsError):
        autotune.attention(query, key, value, memory_limit=0)


def test_a_function_that_was_not_accepted_never_runs(contest, ran):
    query, key, value = tensors(SMALL)
    autotune.attention(query, key, value, accept=[DENSE])
    autotune.attention(query, key, value)
    assert [pattern for pattern, _ in ran] == [DENSE, DENSE]


def test_accepting_nothing_is_an_error(database):
    with pytest.raises(AutotuneError, match="accept") as caught:
        autotune.attention(*tensors(SMALL), accept=[])
    assert not isinstance(caught.value, NothingFitsError)


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_without_a_database_the_default_runs_and_explain_says_so(database, ran, pattern, causal):
    problem = replace(SMALL, causal=causal)
    query, key, value = tensors(problem)
    out = autotune.attention(query, key, value, is_causal=causal, pattern=pattern)
    assert_close(out, oracle(problem, pattern, query, key, value))
    decision = autotune.explain(query, key, value, is_causal=causal, pattern=pattern)
    assert (decision.source, decision.config, decision.record) == ("default", DEFAULTS[pattern], None)
    assert "autotune tune" in decision.reason
    assert "source    default" in decision.text
    assert ran == [(pattern, decision.config)]
    assert not database.exists()


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
def test_the_default_too_keeps_to_the_memory_limit(database, pattern):
    with pytest.raises(NothingFitsError, match="nothing is tuned"):
        autotune.attention(*tensors(SMALL), pattern=pattern, memory_limit=1000)


def test_what_is_tuned_later_is_seen_after_a_reload_and_not_before(database):
    query, key, value = tensors(SMALL)
    assert autotune.explain(query, key, value).source == "default"
    fill(database, both(DENSE))
    assert autotune.explain(query, key, value).source == "default"
    current.reload()
    assert autotune.explain(query, key, value).config == BEST[DENSE]


def test_the_database_is_read_once(database, monkeypatch):
    fill(database, both(DENSE))
    opened = []
    open_store = Store.open
    monkeypatch.setattr(Store, "open", lambda *a, **k: opened.append(a) or open_store(*a, **k))
    for length in (256, 128, 64, 256):
        autotune.attention(*tensors(Problem.self_attention(length)))
    assert len(opened) == 1


def warned_once(parts, source="default"):
    """Attention runs by what is left, is right, and says once what is wrong with the database."""
    query, key, value = tensors(SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [autotune.attention(query, key, value) for _ in range(3)]
        outputs.append(autotune.attention(query[:, :, :100], key, value))
        assert autotune.explain(query, key, value).source == source
    assert_close(outputs[2], oracle(SMALL, DENSE, query, key, value))
    (message,) = [str(one.message) for one in caught if one.category is AutotuneWarning]
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def test_without_a_database_attention_works_and_says_so_once(database):
    warned_once([database, "run `autotune tune`"])
    assert not database.exists()


@pytest.mark.parametrize("content", [b"just some text, not a database\n" * 100, b"\xff" * 5000], ids=["text", "bytes"])
def test_with_a_file_that_is_no_database_attention_works_and_says_so_once(database, content):
    database.write_bytes(content)
    warned_once([database, "not a SQLite database"])
    assert database.read_bytes() == content


def test_with_a_damaged_database_attention_works_and_says_so_once(database):
    fill(database, both(DENSE))
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2] + b"\x5a" * 100)
    warned_once([database])


def test_with_a_newer_schema_attention_works_and_says_so_once(database):
    fill(database, both(DENSE))
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE autotune_alembic_version SET version_num = '9999'")
    connection.close()
    warned_once(["schema revision 9999, newer than this autotune knows"])


def test_with_a_database_of_another_gpu_attention_works_and_says_so_once(database):
    another = replace(environment_of(CPU), device="cuda", device_name="NVIDIA H100", capability="9.0")
    fill(database, both(DENSE, replace(SMALL, device="cuda")), environment=another)
    warned_once([database, "no measurement of this device and software"])


def test_with_a_database_of_another_version_the_warning_names_what_differs(database):
    fill(database, both(DENSE), environment=replace(environment_of(CPU), torch_version="1.0"))
    warned_once(["torch 1.0, now ", "unverified; run `autotune tune --reverify`"], source="unverified")


@pytest.mark.parametrize(
    "change",
    [{"device_name": "Another CPU"}, {"threads": 999}, {"capability": "SSE2"}],
    ids=lambda change: next(iter(change)),
)
def test_measurements_of_another_device_are_not_used(database, change):
    fill(database, both(DENSE), environment=replace(environment_of(CPU), **change))
    assert autotune.explain(*tensors(SMALL)).source == "default"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_what_failed_is_never_chosen_however_fast(database, ran, status):
    fill(
        database,
        [(SMALL, DENSE, BEST[DENSE], failed(status, 0.001)), (SMALL, DENSE, DEFAULTS[DENSE], ok(9.0))],
    )
    autotune.attention(*tensors(SMALL))
    autotune.attention(*tensors(Problem.self_attention(100)))
    assert ran == [(DENSE, DEFAULTS[DENSE])] * 2


@pytest.mark.parametrize("status", [Status.WRONG_RESULT, Status.CRASHED, Status.OOM])
def test_a_later_failure_withdraws_an_earlier_success(database, status):
    fill(database, [*both(DENSE), (SMALL, DENSE, BEST[DENSE], failed(status))])
    assert autotune.explain(*tensors(SMALL)).config == DEFAULTS[DENSE]


def test_where_everything_failed_the_default_runs(database):
    fill(database, [(SMALL, DENSE, BEST[DENSE], failed(Status.WRONG_RESULT, 1.0))])
    assert autotune.explain(*tensors(SMALL)).source == "default"


def test_a_mask_goes_to_torch(database, ran):
    query, key, value = tensors(SMALL)
    mask = torch.rand(256, 256, generator=torch.Generator().manual_seed(3)) > 0.5
    mask.fill_diagonal_(True)
    out = autotune.attention(query, key, value, mask)
    assert torch.equal(out, scaled_dot_product_attention(query, key, value, mask))
    assert not torch.allclose(out, scaled_dot_product_attention(query, key, value))
    assert ran == []
    decision = autotune.explain(query, key, value, mask)
    assert decision.source == "caller"
    assert "attn_mask" in decision.reason


def test_dropout_goes_to_torch(database):
    query, key, value = tensors(SMALL)
    torch.manual_seed(5)
    out = autotune.attention(query, key, value, dropout_p=0.5)
    torch.manual_seed(5)
    assert torch.equal(out, scaled_dot_product_attention(query, key, value, dropout_p=0.5))
    assert autotune.explain(query, key, value, dropout_p=0.5).source == "caller"


@pytest.mark.parametrize("call", [autotune.attention, autotune.explain], ids=["attention", "explain"])
@pytest.mark.parametrize(
    ("options", "named"), [({"attn_mask": torch.ones(256, 256)}, "attn_mask"), ({"dropout_p": 0.1}, "dropout_p=0.1")]
)
@pytest.mark.parametrize("patterns", [{"pattern": DILATED}, {"accept": [WINDOW, DILATED]}], ids=["pattern", "accept"])
def test_mask_and_dropout_are_refused_where_dense_is_not_accepted(database, call, options, named, patterns):
    with pytest.raises(UnsupportedError, match=named):
        call(*tensors(SMALL), **options, **patterns)


@pytest.mark.parametrize(
    ("query", "key", "value", "named"),
    [
        ((1, 8, 16, 32), (1, 8, 16, 32), (1, 8, 17, 32), ["(1, 8, 17, 32)"]),
        ((1, 8, 16, 32), (1, 8, 16, 64), (1, 8, 16, 64), ["(1, 8, 16, 32)", "(1, 8, 16, 64)"]),
        ((2, 8, 16, 32), (3, 8, 16, 32), (3, 8, 16, 32), ["(2, 8, 16, 32)", "(3, 8, 16, 32)"]),
        ((1, 8, 16, 32), (1, 4, 16, 32), (1, 4, 16, 32), ["8 heads", "4", "enable_gqa"]),
        ((1, 8, 16, 32), (1, 8, 16, 32), (1, 4, 16, 32), ["8 heads", "enable_gqa"]),
    ],
)
@pytest.mark.parametrize("call", [autotune.attention, autotune.explain], ids=["attention", "explain"])
def test_shapes_that_do_not_belong_together_are_named(database, call, query, key, value, named):
    with pytest.raises(ProblemError) as caught:
        call(torch.zeros(query), torch.zeros(key), torch.zeros(value))
    assert all(part in str(caught.value) for part in named)
    assert "\n" not in str(caught.value)


def test_grouped_heads_must_divide(database):
    with pytest.raises(ProblemError, match="heads is 8, but must be a multiple of kv_heads, 3"):
        autotune.attention(
            torch.zeros(1, 8, 16, 8), torch.zeros(1, 3, 16, 8), torch.zeros(1, 3, 16, 8), enable_gqa=True
        )


@pytest.mark.parametrize("dtypes", [("float32", "float16", "float32"), ("int64",) * 3, ("complex64",) * 3])
def test_dtypes_that_do_not_belong_together_are_named(database, dtypes):
    with pytest.raises(ProblemError) as caught:
        autotune.attention(*(torch.zeros(1, 2, 16, 8, dtype=getattr(torch, name)) for name in dtypes))
    assert all(f"torch.{name}" in str(caught.value) for name in dtypes)


@pytest.mark.parametrize("pattern", [DILATED, WINDOW], ids=IDS[1:])
def test_cross_attention_is_refused_where_the_pattern_is_not_defined(database, pattern):
    query, key, value = tensors(replace(SMALL, query_len=1))
    with pytest.raises(PatternError, match="query_len 1 and kv_len 256"):
        autotune.attention(query, key, value, pattern=pattern)


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
@pytest.mark.parametrize("tuned", [False, True], ids=["untuned", "tuned"])
def test_grouped_heads(database, pattern, tuned):
    problem = Problem.self_attention(200, heads=6, kv_heads=2, batch=2, head_dim=16, causal=True)
    if tuned:
        fill(database, both(pattern))
    query, key, value = tensors(problem)
    out = autotune.attention(query, key, value, is_causal=True, enable_gqa=True, pattern=pattern)
    assert_close(out, oracle(problem, pattern, query, key, value))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("lengths", [(1, 300), (3, 300), (300, 3), (129, 128)], ids=str)
@pytest.mark.parametrize("config", [None, BEST[DENSE], Config.of("ring", chunk_size=100, compile="off")], ids=str)
def test_cross_attention_agrees_with_torch(database, ran, causal, lengths, config):
    problem = replace(SMALL, query_len=lengths[0], kv_len=lengths[1], causal=causal)
    if config is not None:
        fill(database, [(problem, DENSE, config, ok(1.0))])
    query, key, value = tensors(problem)
    out = autotune.attention(query, key, value, is_causal=causal)
    assert ran == [(DENSE, config or DEFAULTS[DENSE])]
    expected = scaled_dot_product_attention(query.double(), key.double(), value.double(), is_causal=causal)
    assert_close(out, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
@pytest.mark.parametrize("tuned", [False, True], ids=["untuned", "tuned"])
def test_half_precision(database, ran, dtype, pattern, tuned):
    problem = replace(SMALL, dtype=dtype)
    if tuned:
        fill(database, both(pattern, problem))
    query, key, value = tensors(problem)
    out = autotune.attention(query, key, value, pattern=pattern)
    assert out.dtype == problem.torch_dtype
    assert_close(out, oracle(problem, pattern, query, key, value))
    assert ran == [(pattern, BEST[pattern] if tuned else DEFAULTS[pattern])]


def test_a_dtype_says_nothing_about_another(database):
    fill(database, both(DENSE, replace(SMALL, dtype="bfloat16")))
    assert autotune.explain(*tensors(SMALL)).source == "default"


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_the_scale_is_the_callers(database, pattern, scale):
    fill(database, both(pattern))
    query, key, value = tensors(SMALL)
    out = autotune.attention(query, key, value, scale=scale, pattern=pattern)
    assert_close(out, oracle(SMALL, pattern, query, key, value, scale=scale))


@pytest.mark.parametrize(
    ("grad", "enabled", "direction"),
    [(True, True, "training"), (True, False, "forward"), (False, True, "forward")],
)
def test_the_direction_follows_from_whether_gradients_are_recorded(database, grad, enabled, direction):
    query, key, value = tensors(SMALL, grad=grad)
    with torch.set_grad_enabled(enabled):
        assert autotune.explain(query, key, value).problem.direction == direction


def test_each_direction_has_its_own_best(database):
    training = replace(SMALL, direction="training")
    fill(
        database,
        [*both(DENSE), (training, DENSE, BEST[DENSE], ok(9.0)), (training, DENSE, DEFAULTS[DENSE], ok(2.0))],
    )
    tensors_with_grad = tensors(SMALL, grad=True)
    assert autotune.explain(*tensors_with_grad).config == DEFAULTS[DENSE]
    with torch.no_grad():
        assert autotune.explain(*tensors_with_grad).config == BEST[DENSE]


@pytest.mark.parametrize("pattern", PATTERNS, ids=IDS)
def test_strided_inputs_are_taken_as_they_are(database, pattern):
    problem = Problem.self_attention(100, heads=4, head_dim=16, batch=2)
    packed = torch.randn(2, 100, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    query, key, value = packed.permute(2, 0, 3, 1, 4)
    assert not query.is_contiguous()
    out = autotune.attention(query, key, value, pattern=pattern)
    assert_close(out, oracle(problem, pattern, query, key, value))


def test_one_token(database):
    query, key, value = tensors(Problem.self_attention(1))
    for pattern in PATTERNS:
        assert torch.allclose(autotune.attention(query, key, value, pattern=pattern), value, atol=1e-6)


def test_explain_predicts_a_neighbour_in_proportion_to_the_arithmetic(database):
    fill(database, [(SMALL, DENSE, DEFAULTS[DENSE], ok(2.0))])
    decision = autotune.explain(*tensors(Problem.self_attention(512)))
    assert decision.predicted_ms == pytest.approx(8.0)
    assert decision.source == "neighbour"
    assert SMALL.key in decision.reason
    assert math.isfinite(decision.predicted_memory_bytes)


def test_the_same_call_costs_no_second_decision(database, monkeypatch):
    chosen = []
    choose = Selector.choose
    monkeypatch.setattr(Selector, "choose", lambda *a, **k: chosen.append(a) or choose(*a, **k))
    query, key, value = tensors(SMALL)
    for _ in range(3):
        autotune.attention(query, key, value)
    autotune.attention(query, key, value, is_causal=True)
    assert len(chosen) == 2
