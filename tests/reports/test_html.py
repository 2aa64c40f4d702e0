"""The page as a text: it parses, fetches nothing, escapes everything, says what it should."""

from html.parser import HTMLParser

import pytest

from autotune.db.records import Status
from autotune.reports.html_format import html
from autotune.reports.html_tables import Value, all_rows, beside, choices, chosen, memory_matrix, time_matrix
from autotune.reports.method import terms
from autotune.reports.sections import sections
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense

VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = "</script><script>alert('x')</script> & <b>\nsecond line"


class Page(HTMLParser):
    """Tags, attributes and text; every tag must be closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def suite_page(suite_source):
    return Page(html(suite_source))


def test_fetches_nothing(suite_page):
    assert suite_page.all("link") == suite_page.all("img") == []
    assert all("src" not in attrs for _, attrs in suite_page.tags)
    assert all(attrs["href"].startswith("#") for attrs in suite_page.all("a"))
    [policy] = [attrs["content"] for attrs in suite_page.all("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere_and_names_are_unique(suite_page):
    names = [attrs["id"] for _, attrs in suite_page.tags if "id" in attrs]
    assert len(names) == len(set(names))
    assert {attrs["href"][1:] for attrs in suite_page.all("a")} <= set(names)


def test_one_plot_library_and_one_caption_for_each_plot(suite_page, suite_source):
    assert html(suite_source).count("plotly.js v") == 1
    assert len(suite_page.all("figure")) == len(suite_page.all("figcaption")) == 5


def test_tells_where_and_how(suite_page, suite_source):
    for text in ("Planted GPU", "float16, batch 1, 8 heads", "torch 2.13.0", "CUDA 12.8", "20.0 TFLOP/s", "20.0 GB/s"):
        assert text in suite_page.text
    assert "autotune bench --suite extreme --lengths 4096,8192" in suite_page.text
    assert "these results are not believed" in suite_page.text
    assert all(each.definition in suite_page.text for each in suite_source.suite.implementations)


def test_terms_are_explained(suite_page, suite_source):
    for term, text in terms(sections(suite_source)).items():
        assert term in suite_page.text
        assert text.replace("`", "") in suite_page.text


def test_escapes(book):
    book.add(Dense(), Config.of("sdpa", backend=ATTACK), Status.WRONG_RESULT, 1.0, reason=ATTACK)
    text = html(book.source())
    assert "alert('x')" not in text
    page = Page(text)
    assert len(page.all("script")) == 3
    assert page.text.count(ATTACK) == 4  # reason and configuration, among the flagged and in the table


def test_order_of_records_does_not_matter(full_book):
    backwards = full_book.source(records=full_book.records[::-1], choices=full_book.choices[::-1])
    assert html(backwards) == html(full_book.source())


def test_empty_database(book):
    page = Page(html(book.source()))
    assert "No measurements yet: run `autotune tune`" in page.text
    assert page.all("figure") == []


def test_sections_stand_apart(full_book):
    page = Page(html(full_book.source()))
    assert [attrs["id"] for attrs in page.all("section")][:-2] == ["section-1", "section-2", "section-3"]


def test_matrix(suite_source):
    [section] = sections(suite_source)
    lines = {line[0].text: line[1:] for line in time_matrix(section).lines}
    assert [value.text for value in lines["Exact_SDPA"]] == ["40.00", "skipped"]
    assert lines["Exact_SDPA"][1].order is None
    assert lines["ImprovedDilatedAttention"][1] == Value("ok but flagged", None, "flagged")
    assert lines["RingDilatedAttentionProduction_r1"][0].kind == "flagged"
    assert [value.text for value in lines["RingDilatedAttentionProduction_r16"]] == ["not run", "not run"]
    for column in (0, 1):
        ordered = [line[column] for line in lines.values() if line[column].order is not None]
        assert [value for value in ordered if value.kind == "best"] == [min(ordered, key=lambda value: value.order)]


def test_matrix_without_memory(book):
    """A row whose memory is not known keeps no other from being the least."""
    book.add(Dense(), Config.of("sdpa"), Status.OK, 1.0)
    book.add(Dense(), Config.of("flex"), Status.OK, 1.0, peak_memory_bytes=2**20)
    lines = memory_matrix(sections(book.source())[0]).lines
    assert {line[0].text: line[1] for line in lines} == {
        "dense/flex": Value("1.0", 1.0, "best"),
        "dense/sdpa": Value("-"),
    }


@pytest.mark.parametrize("table", [all_rows, time_matrix, memory_matrix])
def test_lines_are_as_wide_as_the_columns(suite_source, table):
    found = table(sections(suite_source)[0])
    assert {len(line) for line in found.lines} == {len(found.columns)}


def test_chosen(full_book):
    found = [chosen(section) for section in sections(full_book.source())]
    [table] = [table for table in found if table]
    assert {len(line) for line in table.lines} == {len(table.columns)}
    lines = {(line[0].text, line[1].text): [value.text for value in line[2:]] for line in table.lines}
    assert lines["dilated", "4,096"] == ["ring(chunk_size=1024)", "10.00", "6.0", "12.50 %", "7", "2.00x"]
    assert lines["dilated", "8,192"][3] == "tie"


def test_choices(book, suite_source):
    """The rows of the Markdown report, told in words and sortable; none for a suite."""
    winner = book.add(Dense(), Config.of("ring", chunk_size=512), Status.OK, 2.0, 4.0, race="final")
    book.add(Dense(), Config.of("ring", chunk_size=1024), Status.OK, 3.0, 6.0, race="final")
    book.add(Dense(), Config.of("sdpa"), Status.OK, 4.5)
    book.choose(winner)
    [section] = sections(book.source())
    table = choices(section)
    assert [[value.text for value in line] for line in table.lines] == [
        ["dense", "4,096", "strategy", "ring", "sdpa", "1.50x", "another time"],
        ["dense", "4,096", "chunk_size of ring", "512", "1024", "1.50x", "same race"],
    ]
    assert {len(line) for line in table.lines} == {len(table.columns)}
    assert [line[5].order for line in table.lines] == [1.5, 1.5]
    assert table.caption in Page(html(book.source())).text
    assert choices(sections(suite_source)[0]) is None


def test_the_memory_that_was_predicted_stands_beside_the_peak(book):
    book.add(Dense(), Config.of("sdpa"), Status.OK, 1.0, peak_memory_bytes=2**20, predicted_memory_bytes=3 * 2**19)
    table = all_rows(sections(book.source())[0])
    [line] = table.lines
    shown = dict(zip(table.columns, line, strict=True))
    assert (shown[">peak MiB"], shown[">predicted MiB"]) == (Value("1.0", 1.0), Value("1.5", 1.5))


def test_beside(suite_source):
    [section] = sections(suite_source)
    table = beside(section, suite_source.published)
    assert len(table.lines) == len(suite_source.published)
    assert {len(line) for line in table.lines} == {len(table.columns)}
    assert beside(section, []) is None
