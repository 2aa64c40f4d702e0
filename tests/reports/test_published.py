"""Figures published elsewhere: read with care, shown beside ours."""

from dataclasses import replace
from pathlib import Path

import pytest

from autotune.db.records import Status
from autotune.reports.markdown import markdown
from autotune.reports.published import PublishedError, read_published
from autotune.strategies.config import Config
from autotune.strategies.pattern import Dense

HEADER = "implementation,seq_len,status,time_ms,peak_memory_mib,failure\n"
EXCERPT = Path(__file__).with_name("published.csv")


def test_rows_are_read_in_order():
    first, *_, last = read_published(EXCERPT)
    assert (first.implementation, first.status, first.time_ms, first.failure) == (
        "DilatedAttention",
        "failed",
        None,
        "DIVISIBILITY",
    )
    assert (last.seq_len, last.status, last.time_ms, last.peak_memory_mib) == (16384, "ok", 0.62, 20.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name,seq_len\n", ("no column implementation, status", "it must have")),
        ("", ("no column",)),
        (HEADER + "a,many,ok,1,1,\n", ("line 2", "many")),
        (HEADER + "a,1,ok,fast,1,\n", ("line 2", "fast")),
        (HEADER + "a\n", ("line 2",)),
        (HEADER + f"{'a' * 200_000},1,ok,1,1,\n", ("field larger",)),
        (b"\xff\xfe", ("cannot read", "--compare")),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, parts):
    path = tmp_path / "published.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PublishedError) as caught:
        read_published(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)


def test_names_that_are_not_ours_are_not_listed(book):
    book.add(Dense(), Config.of("sdpa"), Status.OK, 1.0)
    text = markdown(book.source(published=read_published(EXCERPT)))
    assert "7 of their 18 cells ran. None of their implementations is among ours here; `--suite`" in text
    assert "DIVISIBILITY" not in text


def test_figures_that_are_no_numbers_are_dashes(suite_source, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(HEADER + "DilatedAttention,4096,ok,nan,inf,\nDilatedAttention,8192,ok,0,1,a|b\n")
    text = markdown(replace(suite_source, published=read_published(path)))
    assert "| `DilatedAttention` | 4,096 | ok | - | - | ok | 22.50 | 4.0 | 5.0e-04 | - |" in text
    assert "| `DilatedAttention` | 8,192 | ok (a\\|b) | 0.0000 | 1.0 | ok | 25.00 | 8.0 | 5.0e-04 | - |" in text
