"""The rows as comma-separated values."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from autotune.db.records import Record
from autotune.reports.rows import Row, rows


def csv_text(records: Sequence[Record]) -> str:
    """A header with the fields of `Row`, then one line for each row; a missing figure is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows(records))
    return text.getvalue()
