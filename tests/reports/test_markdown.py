"""What the Markdown report must and must not say, beyond the whole expected text."""

from autotune.db.records import Status
from autotune.reports.markdown import markdown
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense

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


def test_of_each_choice_the_fastest_value_and_what_the_others_cost(book):
    """By the fastest configuration with each value, a failure or a single value being no choice."""
    for reads, block, ms in (("views", 0, 4.0), ("views", 64, 2.0), ("copies", 0, 3.0), ("copies", 64, 9.0)):
        book.add(Dense(), Config.of("ring", reads=reads, query_block=block, compile="off"), Status.OK, ms)
    book.add(Dense(), Config.of("ring", reads="views", query_block=128, compile="off"), Status.OOM)
    book.add(Dense(), SDPA, Status.OK, 5.0)
    text = markdown(book.source())
    assert "| 4,096 | `dense` | strategy | `ring` | 2.000 | `sdpa` 2.50x |" in text
    assert "| 4,096 | `dense` | reads of ring | `views` | 2.000 | `copies` 1.50x |" in text
    assert "| 4,096 | `dense` | query_block of ring | `64` | 2.000 | `0` 1.50x |" in text
    assert "compile of ring" not in text
    assert "backend of sdpa" not in text


def test_where_nothing_was_chosen_among_values_that_is_said(book):
    book.add(Dense(), SDPA, Status.OK, 1.0)
    assert "Nowhere did more than one value of a choice run." in markdown(book.source())


def test_the_memory_that_was_predicted_stands_beside_the_peak(book):
    book.add(Dense(), SDPA, Status.OK, 1.0, peak_memory_bytes=10 * 2**20, predicted_memory_bytes=11 * 2**20)
    assert "| 10.0 | 11.0 |" in markdown(book.source())
