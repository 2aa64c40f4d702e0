"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from autotune.db.records import Choice, Rate, Record
from autotune.reports.published import Published
from autotune.strategies.suite import Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Everything a format may show.

    Args:
        generated: when the report is made, UTC.
        records: every measurement to report on.
        choices: what the searches settled on; the latest for each cell counts.
        rates: what the devices reach in plain operations.
        suite: show only its implementations, under their published names.
        published: somebody else's figures, to be shown beside ours.
    """

    generated: datetime
    records: Sequence[Record] = ()
    choices: Sequence[Choice] = ()
    rates: Sequence[Rate] = ()
    suite: Suite | None = None
    published: Sequence[Published] = ()
