"""The rows as comma-separated values."""

import csv
import io

from autotune.reports.efficiency import flat_rows
from autotune.reports.source import Source


def csv_text(source: Source) -> str:
    """A header with the names of `flat_rows`, then one line for each row; a missing figure is an empty cell."""
    names, rows = flat_rows(source)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
