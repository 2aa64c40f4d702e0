"""How to read the figures of the Markdown report."""

from collections.abc import Sequence

from autotune.reports.markdown_text import bullets
from autotune.reports.method import terms
from autotune.reports.sections import Section


def method(sections: Sequence[Section]) -> str:
    """What the columns mean."""
    return f"## How to read this\n\n{bullets(f'**{term}.** {text}' for term, text in terms(sections).items())}"
