"""The winners, the flagged rows and the failures of the Markdown report, cell by cell."""

from autotune.reports.figures import MISSING, error, finite, margin, mebibytes, milliseconds, times
from autotune.reports.markdown_text import bullets, code, configuration, reason, table
from autotune.reports.sections import Cell, Section, statuses

WINNERS = [">seq_len", "function", "configuration", "chosen by", ">median ms", ">peak MiB", ">rel error"]
WINNERS += [">margin over runner-up", ">candidates tried", ">speed-up over fastest dense"]
FAILURES = ["implementation", ">seq_len", "status", "configuration", "reason"]


def winners(section: Section) -> str:
    """For each function and length the configuration that runs from now on."""
    return table(WINNERS, [_winner(section, cell) for cell in section.cells])


def flagged(section: Section) -> str:
    """Every row whose result is not believed, and why."""
    return (
        bullets(
            f"{code(row.implementation)} at {row.seq_len:,}, {code(row.config)}, {row.status}: {reason(row.flag)}"
            for row in (entry.row for entry in section.flagged)
        )
        or "No row is flagged."
    )


def failures(section: Section) -> str:
    """Every measurement that is not ok, with its full reason."""
    if not section.failures:
        return "No measurement failed."
    return table(
        FAILURES,
        [
            [
                code(entry.row.implementation),
                f"{entry.row.seq_len:,}",
                entry.status_text,
                configuration(entry.row.config, entry.measured),
                reason(entry.row.reason),
            ]
            for entry in section.failures
        ],
    )


def _winner(section: Section, cell: Cell) -> list[str]:
    entry, choice = cell.winner, cell.choice
    figures = [MISSING] * 3
    if entry is not None and entry.ranked_ms is not None:
        row = entry.row
        figures = [milliseconds(row.time_ms), mebibytes(row.peak_memory_mib), error(row.rel_error)]
    return [
        f"{cell.seq_len:,}",
        code(cell.pattern.label),
        _configuration(section, cell),
        "search" if choice else "fastest median" if entry else MISSING,
        *figures,
        margin(finite(choice.margin) if choice else None),
        f"{choice.candidates if choice else len(cell.entries):,}",
        times(section.speed_up(entry)),
    ]


def _configuration(section: Section, cell: Cell) -> str:
    """The chosen configuration, named in a suite; its status too where a later measurement of it is not ok."""
    if cell.winner is None:
        return code(cell.choice.config.text) if cell.choice else f"none ({statuses(cell.entries)})"
    row = cell.winner.row
    text = f"{code(row.implementation)}: {code(row.config)}" if section.suite else code(row.config)
    return text if cell.winner.ranked_ms is not None else f"{text} (now {cell.winner.status_text})"
