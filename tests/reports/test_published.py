"""Figures published elsewhere: read with care, shown beside ours."""

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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("DilatedAttention,4096,ok,nan,1,", "line 2: a figure is nan, but must be a number above 0"),
        ("DilatedAttention,4096,ok,1,inf,", "a figure is inf"),
        ("DilatedAttention,4096,ok,-1,1,", "a figure is -1"),
        ("DilatedAttention,0,ok,1,1,", "seq_len is 0, but must be at least 1"),
    ],
)
def test_figures_that_cannot_be_are_refused_with_their_line(row, message, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(f"{HEADER}{row}\n")
    with pytest.raises(PublishedError, match=message):
        read_published(path)
