"""What another value of each choice would have cost, in Markdown."""

from autotune.reports.choices import CAPTION, alternatives
from autotune.reports.markdown_text import code, table
from autotune.reports.sections import Section

CHOICES = [">seq_len", "function", "choice", "chosen", "instead", ">time over chosen", "measured in"]


def choices(section: Section) -> str:
    """One line for each value that a search tried and did not choose."""
    lines = [
        [
            f"{each.cell.seq_len:,}",
            code(each.cell.pattern.label),
            each.choice,
            code(str(each.chosen)),
            code(str(each.value)),
            each.text,
            each.measured_in,
        ]
        for each in alternatives(section)
    ]
    if not lines:
        return "No search had more than one value of a choice to rank."
    return f"{CAPTION}\n\n{table(CHOICES, lines)}"
