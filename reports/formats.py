"""Report formats by name."""

from collections.abc import Callable

from autotune.reports.csv_format import csv_text
from autotune.reports.json_format import json_text
from autotune.reports.markdown import markdown
from autotune.reports.source import Source
from autotune.strategies.errors import AutotuneError


def _html(source: Source) -> str:
    from autotune.reports.html_format import html  # plots are slow to import, and no other format has any

    return html(source)


FORMATS: dict[str, Callable[[Source], str]] = {
    "markdown": markdown,
    "html": _html,
    "json": json_text,
    "csv": csv_text,
}


class FormatError(AutotuneError, ValueError):
    """A report format that does not exist."""


def render(format_name: str, source: Source) -> str:
    """The report in one of `FORMATS`.

    Raises:
        FormatError: no format has this name.
    """
    if format_name not in FORMATS:
        raise FormatError(f"format is {format_name!r}, but must be one of {', '.join(FORMATS)}")
    return FORMATS[format_name](source)
