"""The selector chooses by what was measured here, at this shape or the nearest one, and never beyond the limit."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from autotune.db.records import Choice, Measurement, Status
from autotune.decision import NothingFitsError
from autotune.environment import environment_of
from autotune.selector import Selector
from autotune.strategies.catalog import STRATEGIES, supported
from autotune.strategies.config import Config
from autotune.strategies.errors import PatternError, UnsupportedError
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem
from autotune.units import format_bytes

from .records import CPU, MIB, failed, fill, ok, stored

DENSE = Dense()
WINDOW = LocalWindow(0.9)
DILATED = Dilated.longnet(4096)
AUTO = Config.of("sdpa", backend="auto", compile="off")
MATH = Config.of("sdpa", backend="math", compile="off")
RING = Config.of("ring", chunk_size=1024, compile="off")
FLEX = Config.of("flex", compile="default")
PROBLEM = Problem.self_attention(4096)
PLENTY = 1 << 40


def texts(decision):
    return tuple(one.text for one in decision.rejected)


@pytest.fixture
def select(tmp_path):
    """Fill a database and return the `choose` of a selector that has read it."""

    def select(*entries, chosen=(), **options):
        records = stored(tmp_path / "t.db", entries, **options)
        return Selector(environment_of(CPU), records, [settled(*one) for one in chosen]).choose

    return select


def settled(problem, pattern, config):
    """What a search settled on."""
    return Choice(
        created_at=datetime(2026, 11, 23, tzinfo=UTC), environment=environment_of(CPU), problem=problem,
        pattern=pattern, config=config, measurement_id=1, margin=None, candidates=2,
    )  # fmt: skip


def test_the_fastest_median_wins_and_the_rest_is_listed_with_times(select):
    choose = select((PROBLEM, DENSE, AUTO, ok(3.0)), (PROBLEM, DENSE, RING, ok(2.0)), (PROBLEM, DENSE, MATH, ok(8.0)))
    decision = choose(PROBLEM, [DENSE], PLENTY)
    assert decision.config == RING
    assert decision.margin == pytest.approx(0.5)
    assert texts(decision) == (f"{AUTO.text} for dense: 3 ms", f"{MATH.text} for dense: 8 ms")
    assert decision.predicted_memory_bytes == MIB


def test_the_only_configuration_has_no_margin(select):
    decision = select((PROBLEM, DENSE, AUTO, ok(3.0)))(PROBLEM, [DENSE], PLENTY)
    assert decision.margin is None
    assert "margin" not in decision.text


def test_the_latest_measurement_of_a_configuration_counts(select):
    choose = select((PROBLEM, DENSE, AUTO, ok(1.0)), (PROBLEM, DENSE, RING, ok(2.0)), (PROBLEM, DENSE, AUTO, ok(3.0)))
    decision = choose(PROBLEM, [DENSE], PLENTY)
    assert (decision.config, decision.record.id) == (RING, 2)
    assert decision.margin == pytest.approx(0.5)


@pytest.mark.parametrize(("limit", "config"), [(8 * MIB, MATH), (8 * MIB - 1, RING), (4 * MIB - 1, AUTO)])
def test_the_limit_is_inclusive_and_decides(select, limit, config):
    choose = select(
        (PROBLEM, DENSE, MATH, ok(1.0, 8)), (PROBLEM, DENSE, RING, ok(2.0, 4)), (PROBLEM, DENSE, AUTO, ok(3.0, 2))
    )
    assert choose(PROBLEM, [DENSE], limit).config == config


def test_what_does_not_fit_is_rejected_with_its_need(select):
    choose = select((PROBLEM, DENSE, MATH, ok(1.0, 8)), (PROBLEM, DENSE, AUTO, ok(3.0, 2)))
    decision = choose(PROBLEM, [DENSE], 4 * MIB)
    assert texts(decision) == (f"{MATH.text} for dense: needs 8.00 MiB (measured), limit 4.00 MiB",)
    assert decision.margin is None
    with pytest.raises(NothingFitsError, match=r"limit is 1\.00 MiB.* needs 2\.00 MiB"):
        choose(PROBLEM, [DENSE], MIB)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
@pytest.mark.parametrize("time_ms", [None, 0.001], ids=["untimed", "timed"])
def test_a_failure_is_never_chosen(select, status, time_ms):
    choose = select((PROBLEM, DENSE, RING, failed(status, time_ms)), (PROBLEM, DENSE, AUTO, ok(3.0)))
    decision = choose(PROBLEM, [DENSE], PLENTY)
    assert decision.config == AUTO
    assert texts(decision) == (
        () if status is Status.SKIPPED else (f"{RING.text} for dense: {status}: planted {status}",)
    )


def test_a_search_winner_keeps_a_tie_and_loses_to_what_is_faster(select):
    chosen = [(PROBLEM, DENSE, AUTO)]
    decision = select((PROBLEM, DENSE, AUTO, ok(5.0)), (PROBLEM, DENSE, RING, ok(2.0)), chosen=chosen)(
        PROBLEM, [DENSE], PLENTY
    )
    assert (decision.config, decision.margin) == (RING, pytest.approx(1.5))
    decision = select((PROBLEM, DENSE, RING, ok(4.95)), chosen=chosen)(PROBLEM, [DENSE], PLENTY)
    assert (decision.config, decision.margin) == (AUTO, pytest.approx(-0.01))
    assert "margin    -1.0% over the next, a tie that goes to the winner of the search" in decision.text
    assert "won the search" in decision.reason


@pytest.mark.parametrize(("races", "config"), [(("a", "a"), AUTO), (("a", "b"), RING), ((None, None), RING)], ids=str)
def test_between_those_it_timed_in_turn_the_verdict_of_the_search_stands(select, races, config):
    def timed(ms, race):
        return Measurement(status=Status.OK, times_ms=(ms,), peak_memory_bytes=MIB, race=race)

    entries = [(PROBLEM, DENSE, AUTO, timed(5.0, races[0])), (PROBLEM, DENSE, RING, timed(4.8, races[1]))]
    assert select(*entries, chosen=[(PROBLEM, DENSE, AUTO)])(PROBLEM, [DENSE], PLENTY).config == config


def test_an_accepted_function_that_no_strategy_computes_is_passed_over(select):
    problem = replace(PROBLEM, dtype="float64", device="cuda")
    decision = select()(problem, [WINDOW, DENSE], PLENTY)
    assert (decision.pattern, decision.source) == (DENSE, "default")
    assert f"flex for {WINDOW.label}: FlexAttention takes no float64" in texts(decision)


def test_a_default_that_may_not_run_now_gives_way_to_what_may(select):
    free = select()
    default = free(PROBLEM, [WINDOW], PLENTY).config
    blocked = free(PROBLEM, [WINDOW], PLENTY, hindrance=lambda _, config, __: "busy" if config == default else None)
    assert blocked.config != default
    assert blocked.config.string("compile", "") == "off"


def test_where_only_a_graph_for_this_length_is_left_it_is_compiled(select):
    decision = select()(PROBLEM, [WINDOW], PLENTY, hindrance=lambda _, __, wanted: None if wanted else "its length")
    assert decision.source == "default"
    with pytest.raises(UnsupportedError, match=r"is all that fits for local_window.*, but a graph is captured"):
        select()(PROBLEM, [WINDOW], PLENTY, hindrance=lambda *_: "a graph is captured")


def test_where_no_option_of_a_rung_fits_the_next_one_is_asked(select):
    shorter = replace(PROBLEM, query_len=2048, kv_len=2048)
    choose = select(
        (PROBLEM, DENSE, MATH, ok(1.0, 4000)), (shorter, DENSE, MATH, ok(1.0, 1)), (shorter, DENSE, RING, ok(2))
    )
    decision = choose(PROBLEM, [DENSE], 1000 * MIB)
    assert (decision.config, decision.source) == (RING, "neighbour")
    assert decision.steps[0] == "measured: 1 of dense, none of which fits and may run"
    assert texts(decision) == (f"{MATH.text} for dense: needs 3.91 GiB (measured), limit 1000.00 MiB",)


def test_what_needs_less_than_the_default_runs_where_the_default_does_not_fit(select):
    problem = Problem.self_attention(32768)
    choose = select()
    default = choose(problem, [DILATED], PLENTY)
    frugal = choose(problem, [DILATED], default.predicted_memory_bytes - 1)
    assert frugal.config != default.config
    assert frugal.predicted_memory_bytes < default.predicted_memory_bytes


def test_the_smallest_need_that_the_error_names_is_enough(select):
    problem, choose = Problem.self_attention(32768), select()
    with pytest.raises(NothingFitsError) as caught:
        choose(problem, [DILATED], 1)
    spaces = [strategy.space(problem, DILATED) for strategy in supported(problem, DILATED).values()]
    needs = [
        STRATEGIES[config.strategy].memory_bytes(problem, DILATED, config)
        for space in spaces for config in space if config == space.default or config.string("compile", "off") == "off"
    ]  # fmt: skip
    assert f" needs {format_bytes(min(needs))};" in str(caught.value)
    assert choose(problem, [DILATED], min(needs)).predicted_memory_bytes == min(needs)


def test_a_default_that_was_wrong_here_does_not_run(select):
    default = select()(PROBLEM, [DENSE], PLENTY).config
    decision = select((PROBLEM, DENSE, default, failed(Status.WRONG_RESULT)))(PROBLEM, [DENSE], PLENTY)
    assert decision.source == "default"
    assert decision.config != default


def test_what_failed_here_is_not_fetched_from_a_neighbour(select):
    entries = [(PROBLEM, DENSE, AUTO, failed(Status.OOM)), (replace(PROBLEM, batch=2), DENSE, AUTO, ok(1.0))]
    decision = select(*entries)(PROBLEM, [DENSE], PLENTY)
    assert decision.config != AUTO
    assert f"{AUTO.text} for dense: oom: planted oom" in texts(decision)


def test_a_tuned_function_beats_an_accepted_one_that_is_not(select):
    decision = select((PROBLEM, WINDOW, FLEX, ok(3.0)))(PROBLEM, [DENSE, WINDOW], PLENTY)
    assert (decision.pattern, decision.config) == (WINDOW, FLEX)


@pytest.mark.parametrize(("pattern", "other"), [(DENSE, WINDOW), (DILATED, DENSE), (WINDOW, DILATED)], ids=str)
def test_one_function_says_nothing_about_another(select, pattern, other):
    decision = select((PROBLEM, other, FLEX, ok(3.0)))(PROBLEM, [pattern], PLENTY)
    assert (decision.source, decision.pattern) == ("default", pattern)
    assert decision.config != FLEX


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ({"query_len": 4096, "kv_len": 4096}, {"query_len": 65536, "kv_len": 65536}),
        ({"query_len": 16384, "kv_len": 16384}, {"query_len": 512, "kv_len": 512}),
        ({"head_dim": 64}, {"head_dim": 16}),
        ({"heads": 8, "kv_heads": 8}, {"heads": 32, "kv_heads": 32}),
        ({"batch": 2}, {"batch": 16}),
        ({"causal": True}, {"causal": False}),
        ({"direction": "training"}, {"direction": "forward"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("swap", [False, True], ids=["near_first", "far_first"])
def test_the_nearest_measured_problem_speaks(select, near, far, swap):
    wanted = replace(
        PROBLEM, **{"query_len": 8000, "kv_len": 8000, "head_dim": 80, "heads": 12, "kv_heads": 12}
        | {"causal": True, "direction": "training"}
    )  # fmt: skip
    entries = [
        (replace(wanted, **{"query_len": 8192, "kv_len": 8192} | near), DENSE, RING, ok(9.0)),
        (replace(wanted, **{"query_len": 8192, "kv_len": 8192} | far), DENSE, AUTO, ok(0.1)),
    ]
    decision = select(*(entries[::-1] if swap else entries))(wanted, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("neighbour", RING)


def test_this_very_problem_speaks_before_its_neighbours(select):
    choose = select((PROBLEM, DENSE, RING, ok(9.0)), (replace(PROBLEM, head_dim=63), DENSE, AUTO, ok(0.1)))
    decision = choose(PROBLEM, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("measured", RING)


def test_the_same_window_is_nearer_than_another_sparsity(select):
    other = LocalWindow(0.5)
    near = replace(PROBLEM, query_len=4000, kv_len=4000)
    tiles = Config.of("block_sparse", compile="off")
    decision = select((near, other, tiles, ok(1.0)), (near, WINDOW, FLEX, ok(9.0)))(PROBLEM, [WINDOW], PLENTY)
    assert decision.config == FLEX


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"device": "cuda"}, {"kv_home": "host"}], ids=str)
def test_another_dtype_device_or_home_of_keys_is_no_neighbour(select, change):
    decision = select((replace(PROBLEM, **change), DENSE, RING, ok(1.0)))(PROBLEM, [DENSE], PLENTY)
    assert decision.source == "default"


def test_a_neighbour_that_cannot_do_the_problem_is_passed_over(select):
    training = replace(PROBLEM, direction="training", query_len=5000, kv_len=5000)
    tiles = Config.of("block_sparse", compile="default")
    far = replace(training, query_len=512, kv_len=512)
    choose = select((PROBLEM, WINDOW, FLEX, ok(0.1)), (far, WINDOW, tiles, ok(9.0)))
    assert choose(PROBLEM, [WINDOW], PLENTY).config == FLEX
    assert choose(training, [WINDOW], PLENTY).config == tiles  # FlexAttention has no backward on the CPU


def test_a_configuration_of_an_unknown_strategy_is_passed_over(select):
    foreign = Config.of("from_the_future", depth=3)
    choose = select((PROBLEM, DENSE, foreign, ok(0.1)), (PROBLEM, DENSE, AUTO, ok(3.0)))
    assert choose(replace(PROBLEM, batch=2), [DENSE], PLENTY).config == AUTO
    assert choose(PROBLEM, [DENSE], PLENTY).config == AUTO


def test_time_scales_with_arithmetic_and_memory_with_the_estimate(select):
    choose = select((PROBLEM, DENSE, AUTO, ok(2.0, 20)))
    double = choose(replace(PROBLEM, batch=2), [DENSE], PLENTY)
    assert double.predicted_ms == pytest.approx(4.0)
    estimates = [STRATEGIES["sdpa"].memory_bytes(each, DENSE, AUTO) for each in (PROBLEM, replace(PROBLEM, batch=2))]
    assert 1.9 < estimates[1] / estimates[0] <= 2
    assert double.predicted_memory_bytes == pytest.approx(20 * MIB * estimates[1] / estimates[0], rel=1e-3)
    longer = choose(replace(PROBLEM, query_len=8192, kv_len=8192), [DENSE], PLENTY)
    assert longer.predicted_ms == pytest.approx(8.0)


def test_the_neighbours_memory_is_held_against_the_limit(select):
    choose = select((PROBLEM, DENSE, MATH, ok(1.0, 1100)), (PROBLEM, DENSE, AUTO, ok(5.0, 9)))
    double = replace(PROBLEM, batch=2)
    assert choose(double, [DENSE], 3000 * MIB).config == MATH
    assert choose(double, [DENSE], 1100 * MIB).config == AUTO
    with pytest.raises(NothingFitsError):
        choose(double, [DENSE], 9 * MIB)


def test_untuned_the_first_accepted_default_that_fits_runs(select):
    choose = select()
    assert choose(PROBLEM, [WINDOW, DENSE], PLENTY).pattern == WINDOW
    assert choose(PROBLEM, [DENSE, WINDOW], PLENTY).pattern == DENSE
    math_free = choose(PROBLEM, [DENSE], PLENTY).predicted_memory_bytes
    assert math_free >= PROBLEM.output_bytes
    with pytest.raises(NothingFitsError, match="run `autotune tune`"):
        choose(PROBLEM, [DENSE, WINDOW], PROBLEM.output_bytes - 1)


@pytest.mark.parametrize("changed", ["torch_version", "triton_version", "driver", "cuda_version"])
def test_records_of_other_software_are_unverified(select, changed):
    other = replace(environment_of(CPU), **{changed: "0.4"})
    choose = select((PROBLEM, DENSE, RING, ok(1.0)), environment=other)
    decision = choose(PROBLEM, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("unverified", RING)
    assert decision.reason.endswith("run `autotune tune --reverify`")
    longer = replace(PROBLEM, query_len=2 * PROBLEM.query_len, kv_len=2 * PROBLEM.kv_len)
    assert choose(longer, [DENSE], PLENTY).source == "unverified"


def test_what_was_measured_here_goes_before_what_other_software_measured(tmp_path):
    here = environment_of(CPU)
    fill(tmp_path / "t.db", [(PROBLEM, DENSE, RING, ok(1.0))], environment=replace(here, torch_version="0.4"))
    records = stored(tmp_path / "t.db", [(PROBLEM, DENSE, MATH, ok(2.0))])
    decision = Selector(here, records).choose(PROBLEM, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("measured", MATH)


def test_shipped_records_come_last_and_are_called_so(tmp_path):
    here = environment_of(CPU)
    shipped = stored(tmp_path / "s.db", [(PROBLEM, DENSE, RING, ok(1.0))], environment=replace(here, threads=99))
    decision = Selector(here, (), shipped=shipped).choose(PROBLEM, [DENSE], PLENTY)
    assert (decision.source, decision.config) == ("shipped", RING)
    assert "source    shipped: " in decision.text
    entries = [(PROBLEM, DENSE, MATH, ok(2.0))]
    unverified = stored(tmp_path / "t.db", entries, environment=replace(here, torch_version="0.4"))
    assert Selector(here, unverified, shipped=shipped).choose(PROBLEM, [DENSE], PLENTY).source == "unverified"


def test_a_pattern_that_does_not_fit_is_an_error(select):
    with pytest.raises(PatternError, match="self-attention"):
        select()(replace(PROBLEM, query_len=1), [WINDOW], PLENTY)


def test_keys_beyond_the_memory_of_a_gpu_are_streamed_by_default(select):
    long = Problem.self_attention(1 << 22, dtype="float32", device="cuda", kv_home="host")
    here = replace(long, kv_home="device")
    decision = select((here, DENSE, AUTO, ok(1.0)))(long, [DENSE], long.output_bytes + here.kv_bytes)
    assert (decision.source, decision.config.strategy) == ("default", "ring")
    assert decision.predicted_memory_bytes < long.output_bytes + here.kv_bytes
    refused = {one.config.strategy: one.reason for one in decision.rejected}
    assert refused == dict.fromkeys(("sdpa", "flex"), "reads keys and values in the memory of the device only")


def test_what_was_measured_of_keys_in_the_hosts_memory_is_for_such_calls(select):
    streamed = replace(PROBLEM, kv_home="host")
    choose = select((streamed, DENSE, RING, ok(1.0)))
    text = choose(streamed, [DENSE], PLENTY).text
    assert f"runs      {RING.text}\n" in text
    assert "source    measured" in text
    assert "rejected  sdpa for dense: reads keys and values in the memory of the device only" in text
    assert "source    default" in choose(PROBLEM, [DENSE], PLENTY).text


def test_what_no_strategy_can_do_is_an_error_with_every_reason(select):
    impossible = replace(PROBLEM, dtype="float64", device="cuda")
    with pytest.raises(UnsupportedError, match="no strategy computes local_window") as caught:
        select()(impossible, [WINDOW], PLENTY)
    assert "flex: FlexAttention takes no float64" in str(caught.value)


def test_the_text_names_everything_the_decision_rests_on(select):
    choose = select((PROBLEM, DENSE, AUTO, ok(2.0, 20)), (PROBLEM, DENSE, RING, ok(3.0, 30)))
    text = choose(PROBLEM, [DENSE], 25 * MIB).text
    for part in (
        f"runs      {AUTO.text}",
        "computes  dense",
        f"for       {PROBLEM.key}",
        "source    measured",
        "predicts  2 ms, peak memory 20.00 MiB above the inputs (measured)",
        "rests on  measurement 1 of ",
        "3 repeats",
        f"rejected  {RING.text} for dense: needs 30.00 MiB (measured), limit 25.00 MiB",
    ):
        assert part in text
