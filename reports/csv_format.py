"""The rows as comma-separated values."""

import csv
import io
from dataclasses import asdict, fields

from autotune.reports.rows import Row, rows
from autotune.reports.source import Source


def csv_text(source: Source) -> str:
    """A header with the fields of `Row`, then one line for each row; a missing figure is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows(source))
    return text.getvalue()
