"""What a report is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from autotune.db.records import Choice, Environment, Rate, Record
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

    def suite_in(self, environment: Environment) -> Suite | None:
        """The suite with what searches in an environment settled on."""
        if self.suite is None:
            return None
        here = (choice for choice in self.choices if choice.environment == environment)
        latest_last = sorted(here, key=lambda choice: choice.created_at)
        return self.suite.deciding({(choice.problem, choice.pattern): choice.config for choice in latest_last})
