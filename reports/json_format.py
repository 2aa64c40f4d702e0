"""The rows as a JSON array."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from autotune.db.records import Record
from autotune.reports.rows import rows


def json_text(records: Sequence[Record]) -> str:
    """Strict JSON (no NaN, no infinity): one object for each row, its keys the fields of `Row`."""
    return json.dumps([asdict(row) for row in rows(records)], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
