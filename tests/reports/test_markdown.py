"""What the Markdown report must and must not say, beyond the whole expected text."""

from functools import partial

from autotune.db.records import Status
from autotune.reports.markdown import markdown
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_block_sparse import LocalWindow

SDPA = Config.of("sdpa", backend="math")


def test_title(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    assert markdown(book.source(), title="A <b>").startswith("# A \\<b\\>\n\nGenerated: 2026")


def test_nothing_ok(book):
    """A failure is shown with its reason, and nothing is ranked."""
    book.add(Dense(), SDPA, Status.OOM, 1.0, reason="the device is full")
    text = markdown(book.source())
    assert "| `dense/sdpa` | none | - | - | - | - | 0 | 1 (1 oom) |" in text
    assert "| none (1 oom) |" in text
    assert "- 4,096 tokens: no result can be ranked." in text
    assert text.count("the device is full") == 2


def test_only_success(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    text = markdown(book.source())
    assert "No measurement failed." in text
    assert "fastest is `dense/sdpa`, 1.000 ms; it is exact." in text


def test_choice_that_failed_later_shows_no_time(book):
    book.choose(book.add(Dense(), SDPA, Status.OK, 123.0), 0.1, 5)
    book.add(Dense(), SDPA, Status.WRONG_RESULT, reason="all zeros")
    text = markdown(book.source())
    assert "| `sdpa(backend=math)` (now wrong_result) | search | - | - | - | 10.00 % | 5 | - |" in text
    assert "123" not in text


def test_choice_whose_measurements_are_left_out(book):
    """A report on part of the records still names what was chosen, without figures."""
    chosen = book.add(Dense(), SDPA, Status.OK, 1.0)
    book.choose(chosen)
    book.add(Dense(), Config.of("flex"), Status.OK, 2.0)
    text = markdown(book.source(records=book.records[1:]))
    assert "| `sdpa(backend=math)` | search | - | - | - | - | 1 | - |" in text


def test_of_each_choice_what_the_other_values_cost(book):
    """By the fastest configuration with each value; a failure, a single value or another strategy's choice is none."""
    found = {
        (reads, block): book.add(
            Dense(), Config.of("ring", reads=reads, query_block=block, compile="off"), Status.OK, ms
        )
        for reads, block, ms in (("views", 0, 4.0), ("views", 64, 2.0), ("copies", 0, 3.0), ("copies", 64, 9.0))
    }
    book.add(Dense(), Config.of("ring", reads="views", query_block=128, compile="off"), Status.OOM)
    for backend, ms in (("math", 5.0), ("flash", 6.0)):
        book.add(Dense(), Config.of("sdpa", backend=backend), Status.OK, ms)
    book.choose(found["views", 64])
    text = markdown(book.source())
    assert "| 4,096 | `dense` | strategy | `ring` | `sdpa` | 2.50x | another time |" in text
    assert "| 4,096 | `dense` | reads of ring | `views` | `copies` | 1.50x | another time |" in text
    assert "| 4,096 | `dense` | query_block of ring | `64` | `0` | 1.50x | another time |" in text
    assert text.count("another time |") == 3


def test_choices_are_held_against_the_winner_in_its_own_race_where_they_were_in_it(book):
    """Medians of the search, taken before, do not compare with it; who was dropped is judged by its rounds."""
    add = partial(book.add, Dense())
    add(Config.of("ring", chunk_size=512), Status.OK, 1.5)
    add(Config.of("sdpa", backend="flash"), Status.OK, 1.9)
    ring = Config.of("ring", chunk_size=1024)
    add(ring, Status.OK, 3.0, 6.0, race="earlier")
    winner = add(ring, Status.OK, 2.0, 4.0, 8.0, race="final")
    add(Config.of("ring", chunk_size=2048), Status.OK, 3.0, 6.0, race="final")
    add(Config.of("flex"), Status.OK, 3.0, 3.9, 7.0, race="final")
    add(Config.of("sdpa", backend="math"), Status.OK, 3.0, 5.0, 9.0, race="final")
    book.choose(winner, -0.025, 6)
    text = markdown(book.source())
    assert "| `ring(chunk_size=1024)` | search |" in text
    assert "| strategy | `ring` | `flex` | tie | same race |" in text
    assert "| strategy | `ring` | `sdpa` | 1.25x | same race |" in text
    assert "| chunk_size of ring | `1024` | `2048` | 1.50x | same race |" in text
    assert "| chunk_size of ring | `1024` | `512` | 0.38x | another time |" in text


def test_nothing_is_said_of_choices_that_no_search_made(book):
    for chunk_size, ms in ((512, 1.0), (1024, 2.0)):
        book.add(Dense(), Config.of("ring", chunk_size=chunk_size), Status.OK, ms)
    book.add(LocalWindow(0.9), SDPA, Status.OK, 1.0)
    assert "No search had more than one value of a choice to rank." in markdown(book.source())


def test_rows_of_a_suite_are_given_and_not_chosen(suite_source):
    assert "Choices" not in markdown(suite_source)


def test_the_memory_that_was_predicted_stands_beside_the_peak(book):
    book.add(Dense(), SDPA, Status.OK, 1.0, peak_memory_bytes=10 * 2**20, predicted_memory_bytes=11 * 2**20)
    assert "| 10.0 | 11.0 |" in markdown(book.source())
