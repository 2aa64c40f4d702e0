"""Every format, against whole expected texts."""

import csv
import io
import json

import pytest

from autotune.reports.formats import FORMATS, FormatError, render
from autotune.strategies.errors import AutotuneError

HEADER = (
    "implementation,pattern,strategy,config,seq_len,status,time_ms,time_min_ms,time_max_ms,repeats,"
    "peak_memory_mib,predicted_memory_mib,rel_error,max_abs_error,tflops,matmul_share,density,reason,flag,device,"
    "environment,problem"
)


@pytest.mark.parametrize(("name", "file"), [("markdown", "report.md"), ("json", "report.json"), ("csv", "report.csv")])
def test_whole_text(full_book, check, name, file):
    check(file, render(name, full_book.source()))


def test_whole_text_of_a_suite(suite_source, check):
    check("suite.md", render("markdown", suite_source))


@pytest.mark.parametrize("name", FORMATS)
def test_order_of_records_does_not_matter(full_book, name):
    forward = render(name, full_book.source())
    backward = full_book.source(records=full_book.records[::-1], choices=full_book.choices[::-1])
    assert render(name, backward) == forward


def test_empty_database(book):
    assert render("json", book.source()) == "[]\n"
    assert render("csv", book.source()) == HEADER + "\n"
    text = render("markdown", book.source())
    assert text.count("\n") == 1
    assert "autotune tune" in text


def test_unknown_format_names_the_known(book):
    with pytest.raises(FormatError, match="'xml', but must be one of markdown, html, json, csv") as caught:
        render("xml", book.source())
    assert isinstance(caught.value, AutotuneError)


def test_json_is_strict(full_book):
    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(render("json", full_book.source()), parse_constant=refuse)
    assert all(",".join(row) == HEADER for row in found)


def test_csv_reads_back(full_book):
    """Multi-line reasons, quotes and pipes survive."""
    read = list(csv.DictReader(io.StringIO(render("csv", full_book.source()))))
    found = json.loads(render("json", full_book.source()))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]


def test_tables_of_the_markdown_are_whole(full_book):
    """Each line of a table has as many cells as its header, pipes in data escaped."""
    width = 0
    for line in render("markdown", full_book.source()).splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells
