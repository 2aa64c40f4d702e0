"""Sections: what is kept apart, and who wins a cell."""

from dataclasses import replace

from autotune.db.records import Status
from autotune.reports.sections import sections
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated

SLOW, FAST = Config.of("sdpa", backend="math"), Config.of("sdpa", backend="flash")


def test_environments_and_settings_are_kept_apart(book):
    first = book.add(Dense(), SLOW, Status.OK, 1.0)
    book.add(Dense(), SLOW, Status.OK, 1.0, causal=True)
    book.add(Dense(), SLOW, Status.OK, 1.0, environment=replace(first.environment, torch_version="2.14"))
    book.add(Dense(), SLOW, Status.OK, 1.0, length=8192)
    found = sections(book.source())
    assert sorted(len(section.entries) for section in found) == [1, 1, 2]
    wide = replace(first, problem=replace(first.problem, query_len=1))
    assert len(sections(book.source(records=[first, wide]))) == 2
    streamed = replace(first, problem=replace(first.problem, kv_home="host"))
    [_, section] = sections(book.source(records=[first, streamed]))
    assert section.setting.text.endswith("forward, keys and values in host memory")


def test_speed_up_is_over_the_fastest_dense_of_the_same_length(book):
    book.add(Dense(), SLOW, Status.OK, 40.0)
    book.add(Dense(), FAST, Status.OK, 20.0)
    book.add(Dense(), Config.of("flex"), Status.WRONG_RESULT, 1.0)
    for length in (4096, 8192):
        book.add(Dilated.longnet(length), Config.of("ring"), Status.OK, 10.0, length=length)
    [section] = sections(book.source())
    gains = {(e.row.implementation, e.row.config, e.row.seq_len): section.speed_up(e) for e in section.entries}
    assert gains == {
        ("dense/flex", "flex()", 4096): None,
        ("dense/sdpa", FAST.text, 4096): 1.0,
        ("dense/sdpa", SLOW.text, 4096): 0.5,
        ("dilated/ring", "ring()", 4096): 2.0,
        ("dilated/ring", "ring()", 8192): None,
    }


def test_winner_is_the_latest_choice(book):
    slow = book.add(Dense(), SLOW, Status.OK, 2.0)
    fast = book.add(Dense(), FAST, Status.OK, 1.0)
    book.choose(fast)
    book.choose(slow)
    [cell] = sections(book.source())[0].cells
    assert cell.winner is not None
    assert cell.winner.record == slow


def test_winner_without_a_choice_is_the_fastest(book):
    book.add(Dense(), SLOW, Status.OK, 2.0)
    fast = book.add(Dense(), FAST, Status.OK, 1.0)
    book.add(Dense(), Config.of("flex"), Status.WRONG_RESULT, 0.1)
    [cell] = sections(book.source())[0].cells
    assert cell.winner is not None
    assert cell.winner.record == fast


def test_cell_without_success_has_no_winner(book):
    book.add(Dense(), SLOW, Status.OOM)
    [cell] = sections(book.source())[0].cells
    assert cell.winner is None
