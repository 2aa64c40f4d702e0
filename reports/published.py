"""Figures published elsewhere, read from a CSV file."""

import csv
from dataclasses import dataclass
from pathlib import Path

from autotune.strategies.errors import AutotuneError

COLUMNS = ("implementation", "seq_len", "status", "time_ms", "peak_memory_mib", "failure")


class PublishedError(AutotuneError, ValueError):
    """A file of published figures that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published figure; not verified by us."""

    implementation: str
    seq_len: int
    status: str
    time_ms: float | None
    peak_memory_mib: float | None
    failure: str


def read_published(path: Path) -> list[Published]:
    """Rows of a CSV file with the columns implementation, seq_len, status, time_ms, peak_memory_mib and failure.

    Raises:
        PublishedError: the file cannot be read, or a row is malformed.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise PublishedError(f"{path} has no column {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
            return [_published(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PublishedError(f"cannot read {path}: {error}; name a CSV file with --compare") from error


def _published(path: Path, line: int, row: dict[str, str | None]) -> Published:
    try:
        return Published(
            implementation=row["implementation"] or "",
            seq_len=_length(row["seq_len"]),
            status=row["status"] or "",
            time_ms=_number(row["time_ms"]),
            peak_memory_mib=_number(row["peak_memory_mib"]),
            failure=row["failure"] or "",
        )
    except ValueError as error:
        raise PublishedError(f"{path}, line {line}: {error}; expected {', '.join(COLUMNS)}") from error


def _length(text: str | None) -> int:
    if (length := int(text or "")) < 1:
        raise ValueError(f"seq_len is {length}, but must be at least 1")
    return length


def _number(text: str | None) -> float | None:
    if not text:
        return None
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError(f"a figure is {text}, but must be a number above 0")
    return number
