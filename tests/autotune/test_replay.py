"""The search as it is, on records: what it finds, after how many measurements, and that chance does worse."""

import statistics
from dataclasses import replace

import pytest
from click.testing import CliRunner
from recorded import RECORD, bowl, planted, real, worst_first

from autotune.cli import main
from autotune.db.records import Results, Status
from autotune.db.results_writer import results_text
from autotune.effort import EFFORTS
from autotune.replay import Notebook, replay, replay_each
from autotune.strategies.config import Config

from .records import failed, ok, stored

PLAIN = Config.of("plain", variant=0)
BOWL = planted(bowl())
SEEDS = 20


def searched(recording, seeds=6, **options):
    return [replay(recording, Notebook(), seed=seed, **options) for seed in range(seeds)]


def test_nothing_is_measured_twice_the_default_comes_first_and_a_seed_is_a_search():
    first, *others = searched(BOWL)
    assert len(first.asked) == len(set(first.asked)) == EFFORTS["standard"].trials
    assert {each.asked[0] for each in (first, *others)} == {PLAIN}
    assert searched(BOWL, seeds=1)[0].asked == first.asked
    assert others[0].asked != first.asked


def test_the_best_of_a_large_space_is_found_and_chance_does_worse():
    big = planted(bowl(chunks=16, blocks=12, best=(11, 3)))
    model, chance = searched(big), searched(big, sampler="random")
    assert max(len(each.asked) for each in (*model, *chance)) == 25
    regrets, by_chance = ([each.regret for each in runs] for runs in (model, chance))
    assert statistics.mean(regrets) < 0.7 * statistics.mean(by_chance)


def test_every_configuration_is_measured_by_an_exhaustive_search():
    (search,) = searched(BOWL, seeds=1, effort=EFFORTS["exhaustive"])
    assert set(search.asked) == set(BOWL.measured)
    assert search.regret <= 0.01


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("better", [1.0, 0.99, 0.97, 0.9])
def test_a_pick_never_loses_to_the_default_beyond_the_noise(better, seed):
    others = {Config.of("ring", chunk=chunk, block=0): 10.0 for chunk in range(10)}
    recording = planted({PLAIN: 10.0, **others, Config.of("ring", chunk=99, block=0): 10.0 * better}, seed=seed)
    for search in searched(recording, seeds=3):
        assert search.regret <= recording.regret(PLAIN) + 0.005
        if better == 0.9:
            assert search.chosen.get("chunk", 0) == 99


def test_slow_candidates_race_in_enough_rounds_though_there_are_fewer_of_them():
    slow = {Config.of("ring", chunk=chunk, block=0): 1100.0 for chunk in range(8)}  # ten rounds of all take 90 s
    cell = {PLAIN: 1200.0, **slow, Config.of("ring", chunk=99, block=0): 1000.0}
    for seed in range(10):
        notebook = Notebook()
        assert replay(planted(cell, seed=seed), notebook, seed=seed).chosen.get("chunk", 0) == 99
        raced = [len(record.measurement.times_ms) for record in notebook.kept if record.measurement.race]
        assert raced
        assert min(raced) >= 8


@pytest.mark.parametrize(("seconds", "finalists"), [(2.0, 2), (4.9, 2), (5.1, 0)])
def test_two_race_in_fewer_rounds_and_none_in_hardly_any(seconds, finalists):
    notebook = Notebook()
    replay(planted({PLAIN: seconds * 1e3, Config.of("ring", chunk=1, block=0): seconds * 1e3}, noise=1e-3), notebook)
    assert sum(record.measurement.race is not None for record in notebook.kept) == finalists


def test_a_tie_goes_to_the_default_and_without_it_to_less_memory():
    frugal, lavish = Config.of("ring", chunk=1, block=0), Config.of("ring", chunk=2, block=0)
    tie = planted({PLAIN: 1.0, frugal: 1.0, lavish: 1.0}, noise=0.001)
    assert {each.chosen for each in searched(tie, seeds=3)} == {PLAIN}
    slow_default = planted({PLAIN: 1.5, frugal: 1.0, lavish: 1.0}, noise=0.001)
    assert {each.chosen for each in searched(slow_default, seeds=3)} == {frugal}


@pytest.mark.parametrize("status", [Status.OOM, Status.CRASHED, Status.WRONG_RESULT])
def test_what_failed_is_never_chosen(status):
    best = BOWL.optimum
    recording = replace(BOWL, measured={**BOWL.measured, best: failed(status)})
    assert best not in {each.chosen for each in searched(recording, seeds=3)}


def test_where_nothing_that_was_tried_runs_nothing_is_chosen():
    recording = replace(BOWL, measured={**BOWL.measured, PLAIN: failed(Status.OOM)})
    (search,) = searched(recording, seeds=1, effort=replace(EFFORTS["standard"], trials=1))
    assert (search.chosen, search.regret, search.needed(0.5)) == (None, float("inf"), None)


def test_a_longer_sequence_begins_with_what_is_fast_at_the_shorter_one():
    cells = [BOWL, planted(bowl(scale=4.0), length=2 * BOWL.cell.problem.kv_len)]
    cold, warm = (
        [replay_each(cells, seed=seed, warm=warm)[1].needed(0.05) or 99 for seed in range(6)] for warm in (False, True)
    )
    assert max(warm) <= 6  # the default, and five others
    assert statistics.median(warm) <= statistics.median(cold) / 2


def run(*words):
    return CliRunner().invoke(main, ["replay", *map(str, words)])


def test_the_command_prints_each_cell_and_each_sampler(tmp_path):
    cell = BOWL.cell
    entries = [(cell.problem, cell.pattern, config, ok(ms)) for config, ms in bowl(chunks=2, blocks=2).items()]
    record = tmp_path / "record.json"
    record.write_text(results_text(Results(records=stored(tmp_path / "t.db", entries))))
    result = run(record, "--seeds", 2)
    assert result.exit_code == 0, result.output
    heading, model, chance, *summaries = result.output.splitlines()
    assert heading.startswith(f"dense, {cell.problem.key}: 6 configurations, optimum ring(")
    assert model.split()[0] == "model"
    assert chance.split()[0] == "random"
    assert "measured 6," in model
    assert [line.partition(":")[0] for line in summaries] == ["model", "random"]
    assert "random" not in run(record, "--seeds", 1, "--sampler", "model", "--trials", 3).output


@pytest.mark.parametrize("text", [None, "", "{}", '{"format": "autotune results"}'])
def test_a_file_that_is_no_record_is_refused_in_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    result = run(tmp_path / "record.json")
    assert (result.exit_code, len(result.output.splitlines())) == (2, 1)


def test_a_record_in_which_nothing_ran_is_refused(tmp_path):
    (tmp_path / "record.json").write_text(results_text(Results()))
    result = run(tmp_path / "record.json")
    assert result.exit_code == 2
    assert "holds no measurement that is ok; record some with `autotune tune --effort exhaustive`" in result.output


def test_the_shipped_record_is_of_twelve_cells_that_are_larger_than_a_search():
    recordings, rates = real()
    assert len(recordings) >= 12
    assert len({each.cell.problem.kv_len for each in recordings}) == 3
    assert all(len(each.measured) > EFFORTS["standard"].trials for each in recordings)
    assert rates
    assert RECORD.stat().st_size < 400_000


def share_within(searches, regret=0.01):
    return sum(search.regret <= regret for search in searches) / len(searches)


def every_search(recordings, rates, **options):
    found = [search for seed in range(SEEDS) for search in replay_each(recordings, rates, seed=seed, **options)]
    assert max(len(search.asked) for search in found) <= 25
    return found


@pytest.mark.slow
def test_searches_of_real_cells_come_within_a_per_cent_of_the_optimum():
    assert share_within(every_search(*real())) >= 0.95


@pytest.mark.xfail(strict=True, reason="nine in ten do: one good value among poor ones stays unseen")
@pytest.mark.slow
def test_they_do_so_too_where_the_default_is_the_worst():
    recordings, rates = real()
    assert share_within(every_search([worst_first(each) for each in recordings], rates)) >= 0.95


@pytest.mark.slow
def test_the_second_length_needs_at_most_half_the_measurements_of_the_first():
    recordings, rates = real()
    hard = [worst_first(each) for each in recordings]
    cold, warm = (
        [search.needed(0.05) or len(search.recording.measured) for search in every_search(hard, rates, warm=warm)]
        for warm in (False, True)
    )
    longer = [each.cell.problem.kv_len > 2048 for each in recordings] * SEEDS
    cold_total, warm_total = (
        sum(n for n, is_longer in zip(each, longer, strict=True) if is_longer) for each in (cold, warm)
    )
    assert warm_total <= cold_total / 2


@pytest.mark.slow
def test_no_choice_in_a_real_cell_loses_to_its_default_beyond_the_noise():
    recordings, rates = real()
    for search in every_search(recordings, rates):
        default = next(iter(search.recording.measured))
        assert search.regret <= search.recording.regret(default) + 0.01
