"""Every format, against whole expected texts."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from autotune.reports.formats import FORMATS, FormatError, render
from autotune.strategies.errors import AutotuneError

GENERATED = datetime(2026, 1, 3, tzinfo=UTC)
HEADER = (
    "implementation,pattern,strategy,config,seq_len,status,time_ms,time_min_ms,time_max_ms,repeats,"
    "peak_memory_mib,rel_error,max_abs_error,tflops,density,reason,device,environment,problem"
)


@pytest.mark.parametrize(("name", "file"), [("markdown", "report.md"), ("json", "report.json"), ("csv", "report.csv")])
def test_whole_text(full_book, check, name, file):
    check(file, render(name, full_book.records, full_book.choices, GENERATED))


@pytest.mark.parametrize("name", FORMATS)
def test_order_of_records_does_not_matter(full_book, name):
    forward = render(name, full_book.records, full_book.choices, GENERATED)
    assert render(name, full_book.records[::-1], full_book.choices[::-1], GENERATED) == forward


def test_empty_database():
    assert render("json", [], [], GENERATED) == "[]\n"
    assert render("csv", [], [], GENERATED) == HEADER + "\n"
    text = render("markdown", [], [], GENERATED)
    assert text.count("\n") == 1
    assert "autotune tune" in text


def test_unknown_format_names_the_known():
    with pytest.raises(FormatError, match="'xml', but must be one of markdown, json, csv") as caught:
        render("xml", [], [], GENERATED)
    assert isinstance(caught.value, AutotuneError)


def test_json_is_strict(full_book):
    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(render("json", full_book.records, [], GENERATED), parse_constant=refuse)
    assert all(",".join(row) == HEADER for row in found)


def test_csv_reads_back(full_book):
    """Multi-line reasons, quotes and pipes survive."""
    read = list(csv.DictReader(io.StringIO(render("csv", full_book.records, [], GENERATED))))
    found = json.loads(render("json", full_book.records, [], GENERATED))
    assert read == [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]


def test_tables_of_the_markdown_are_whole(full_book):
    """Each line of a table has as many cells as its header, pipes in data escaped."""
    width = 0
    for line in render("markdown", full_book.records, full_book.choices, GENERATED).splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells
