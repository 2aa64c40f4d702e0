"""Report formats by name."""

from collections.abc import Callable, Sequence
from datetime import datetime

from autotune.db.records import Choice, Record
from autotune.reports.csv_format import csv_text
from autotune.reports.json_format import json_text
from autotune.reports.markdown import markdown
from autotune.strategies.errors import AutotuneError

Format = Callable[[Sequence[Record], Sequence[Choice], datetime], str]

FORMATS: dict[str, Format] = {
    "markdown": lambda records, choices, generated: markdown(records, choices, generated=generated),
    "json": lambda records, _choices, _generated: json_text(records),
    "csv": lambda records, _choices, _generated: csv_text(records),
}


class FormatError(AutotuneError, ValueError):
    """A report format that does not exist."""


def render(format_name: str, records: Sequence[Record], choices: Sequence[Choice], generated: datetime) -> str:
    """The report in one of `FORMATS`.

    Raises:
        FormatError: no format has this name.
    """
    if format_name not in FORMATS:
        raise FormatError(f"format is {format_name!r}, but must be one of {', '.join(FORMATS)}")
    return FORMATS[format_name](records, choices, generated)
