"""The rows as a JSON array."""

import json
from dataclasses import asdict

from autotune.reports.rows import rows
from autotune.reports.source import Source


def json_text(source: Source) -> str:
    """Strict JSON (no NaN, no infinity): one object for each row, its keys the fields of `Row`."""
    return json.dumps([asdict(row) for row in rows(source)], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
