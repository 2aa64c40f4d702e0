"""The rows as a JSON array."""

import json

from autotune.reports.efficiency import flat_rows
from autotune.reports.source import Source


def json_text(source: Source) -> str:
    """Strict JSON (no NaN, no infinity): one object for each row, its keys those of `flat_rows`."""
    _, rows = flat_rows(source)
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
