"""What is drawn: the right points, the floors, the front, and nothing that is not believed as if it were."""

import pytest

from autotune.db.records import Status
from autotune.reports.looks import FLAGGED, Look, looks
from autotune.reports.plot_style import INK, log_axis
from autotune.reports.plots import memory_plot, share_plot, time_plot
from autotune.reports.plots_pareto import front, pareto_plot
from autotune.reports.plots_published import published_plot
from autotune.reports.plots_search import best_so_far, history, search_plot
from autotune.reports.sections import sections
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.suite_extreme import EXACT, EXTREME

SDPA, RING = Config.of("sdpa", backend="flash"), Config.of("ring", chunk_size=1024)
MIB = 2**20


def section_of(source):
    [section] = sections(source)
    return section, looks([section], (each.implementation for each in source.published))


def traces(plot, label=None):
    """Name, and x and y of every trace; those of a flagged row apart."""
    data = plot.figures[label or next(iter(plot.figures))].data
    names = [(trace.name, "flagged") if trace.marker.symbol == FLAGGED else trace.name for trace in data]
    return {name: list(zip(trace.x, trace.y, strict=True)) for name, trace in zip(names, data, strict=True)}


@pytest.fixture
def duel(book):
    """Exact attention and a rival at two lengths; the rival's second configuration is slower."""
    for length, factor in ((4096, 1), (8192, 4)):
        book.add(Dense(), SDPA, Status.OK, 3.0 * factor, 2.0 * factor, 5.0 * factor, length=length)
        for chunk, time in ((1024, 1.0), (2048, 1.5)):
            config = Config.of("ring", chunk_size=chunk)
            book.add(
                Dilated.longnet(length), config, Status.OK, time * factor, length=length, peak_memory_bytes=6 * MIB
            )
    return book


def test_time_is_that_of_the_fastest_configuration(duel):
    plot = time_plot(*section_of(duel.source()))
    assert traces(plot) == {"dense/sdpa": [(4096, 3.0), (8192, 12.0)], "dilated/ring": [(4096, 1.0), (8192, 4.0)]}
    bars = plot.figures[""].data[0].error_y
    assert (list(bars.array), list(bars.arrayminus)) == ([2.0, 8.0], [1.0, 4.0])


def test_floor_is_the_operations_at_the_matmul_rate(duel):
    duel.measure(2.0)
    found = traces(time_plot(*section_of(duel.source())))
    dense, dilated = dict(found["floor: dense"]), dict(found["floor: dilated"])
    assert dense == pytest.approx({n: 4 * 8 * n * n * 64 / 2e12 * 1e3 for n in (4096, 8192)})
    assert dilated == pytest.approx({4096: dense[4096] * 0.5625, 8192: dense[8192] * 0.3125})


def test_memory_floor_is_the_output(duel):
    found = traces(memory_plot(*section_of(duel.source())))
    assert found == {
        "dilated/ring": [(4096, 6.0), (8192, 6.0)],
        "floor: output": [(4096, 4.0), (8192, 8.0)],  # 8 heads x 64 x 2 bytes a token
    }


def test_share_needs_a_rate(duel):
    assert share_plot(*section_of(duel.source())) is None
    duel.measure(40.0)
    found = traces(share_plot(*section_of(duel.source())))
    share = 4 * 8 * 4096**2 * 64 / 3e-3 / 40e12
    assert dict(found["dense/sdpa"]) == pytest.approx({4096: share, 8192: share})
    assert found["matmul rate"] == [(4096, 1.0), (8192, 1.0)]


def test_line_breaks_where_it_failed(book):
    for length, status in ((4096, Status.OK), (8192, Status.OOM), (16384, Status.OK)):
        book.add(Dense(), SDPA, status, *[1.0] * (status == Status.OK), length=length)
    assert traces(time_plot(*section_of(book.source())))["dense/sdpa"] == [(4096, 1.0), (8192, None), (16384, 1.0)]


def test_flagged_row_is_a_cross_beside_the_line(duel):
    """Too fast to be true at 8,192: in no line, on no front, and it says so."""
    duel.measure(50.0)
    duel.add(Dense(), SDPA, Status.OK, 0.001, length=8192, peak_memory_bytes=MIB)
    section, shared = section_of(duel.source())
    found = traces(time_plot(section, shared))
    assert found["dense/sdpa"] == [(4096, 3.0), (8192, None)]
    assert found["dense/sdpa", "flagged"] == [(8192, 0.001)]
    [cross] = [trace for trace in time_plot(section, shared).figures[""].data if trace.marker.symbol == FLAGGED]
    assert cross.mode == "markers"
    assert cross.hovertext[0].startswith("flagged: achieved")
    assert all(entry.row.time_ms != 0.001 for entry in front(section.entries))
    assert set(traces(pareto_plot(section, shared), "8,192 tokens")) == {"Pareto front", "dilated/ring"}


def test_nothing_timed_is_no_plot(book):
    book.add(Dense(), SDPA, Status.OOM)
    book.measure(1.0)
    section, shared = section_of(book.source())
    assert [plot(section, shared) for plot in (time_plot, memory_plot, share_plot, pareto_plot)] == [None] * 4


def test_front(book):
    """Slower and leaner is on it; slower and as large is not, nor is what failed or has no memory."""
    for number, (time, memory) in enumerate([(1.0, 9), (2.0, 9), (3.0, 4), (4.0, 5), (5.0, 1), (0.5, None)]):
        size = memory and memory * MIB
        book.add(Dense(), Config.of("sdpa", number=number), Status.OK, time, peak_memory_bytes=size)
    book.add(Dense(), RING, Status.OOM, 0.1, peak_memory_bytes=1)
    section, shared = section_of(book.source())
    assert [entry.row.time_ms for entry in front(section.entries)] == [1.0, 3.0, 5.0]
    figure = pareto_plot(section, shared).figures["4,096 tokens"]
    steps, points = figure.data
    assert (steps.x, steps.y, steps.line.shape) == ((1.0, 3.0, 5.0), (9.0, 4.0, 1.0), "hv")
    filled = [x for x, symbol in zip(points.x, points.marker.symbol, strict=True) if not symbol.endswith("-open")]
    assert filled == [1.0, 3.0, 5.0]


def test_pareto_begins_with_the_longest_of_the_fullest_lengths(duel):
    duel.add(Dense(), SDPA, Status.OK, 50.0, length=16384, peak_memory_bytes=MIB)
    plot = pareto_plot(*section_of(duel.source()))
    assert list(plot.figures) == ["8,192 tokens", "4,096 tokens", "16,384 tokens"]


def test_history_has_every_attempt_in_order(book):
    """Also one that a later one replaced; failures are crosses in the strip above."""
    for time in (5.0, 3.0, None, 4.0, 2.0):
        status = Status.OK if time else Status.TIMEOUT
        config = Config.of("sdpa", number=int(time or 0) % 3)  # the first and the last are the same
        last = book.add(Dense(), config, status, *[time] * bool(time))
    book.choose(last, 0.1, 4)
    source = book.source(records=book.records[::-1])
    section, shared = section_of(source)
    tried = history(section.cells[0], source)
    assert [entry.row.time_ms for entry in tried] == [5.0, 3.0, None, 4.0, 2.0]
    assert best_so_far(tried) == [5.0, 3.0, 3.0, 3.0, 2.0]
    plot = search_plot(section, source, shared)
    assert list(plot.figures) == ["4,096 tokens, dense"]
    found = traces(plot)
    assert found["dense/sdpa"] == [(1, 5.0), (2, 3.0), (4, 4.0), (5, 2.0)]
    assert found["dense/sdpa", "flagged"] == [(3, 1)]
    assert found["chosen"] == [(5, 2.0)]
    assert plot.figures["4,096 tokens, dense"].data[2].yaxis == "y2"


def test_no_history_without_a_search(duel):
    """Nor of a cell with a single configuration."""
    source = duel.source()
    assert search_plot(*section_of(source)[:1], source, {}) is None
    duel.choose(duel.records[0])
    source = duel.source()
    section, shared = section_of(source)
    assert search_plot(section, source, shared) is None


def test_published_are_dotted_and_hollow(suite_source):
    section, shared = section_of(suite_source)
    figure = published_plot(section, suite_source.published, shared).figures[""]
    theirs = [trace for trace in figure.data if trace.name.endswith(", published")]
    ours = [trace for trace in figure.data if trace not in theirs]
    assert theirs
    assert ours
    assert {trace.line.dash for trace in theirs} == {"dot"}
    assert {trace.line.dash for trace in ours} == {"solid"}
    assert all(trace.marker.symbol.endswith("-open") for trace in theirs)
    colours = {trace.legendgroup: trace.line.color for trace in ours}
    assert all(colours.get(trace.legendgroup, trace.line.color) == trace.line.color for trace in theirs)
    assert published_plot(section, [], shared) is None


def test_published_under_other_names_says_so(duel, suite_source):
    source = suite_source
    other = duel.source(suite=None, published=source.published)
    section = sections(other)[0]
    shared = looks([section], (each.implementation for each in source.published))
    assert "none of these names is ours" in published_plot(section, source.published, shared).caption


def test_every_implementation_of_the_suite_looks_different(suite_source):
    _, shared = section_of(suite_source)
    assert list(shared) == [each.name for each in EXTREME.implementations]
    assert len({(look.colour, look.dash) for look in shared.values()}) == 12
    assert len({look.symbol for look in shared.values()}) == 12
    assert shared[EXACT] == Look(colour=INK, symbol="circle", width=4)


@pytest.mark.parametrize(("values", "dtick"), [([], None), ([3.0, 4.0], None), ([1.0, 90.0], "D2"), ([1.0, 1e6], 1)])
def test_marks_of_a_logarithmic_axis(values, dtick):
    assert log_axis("ms", [*values, None])["dtick"] == dtick
