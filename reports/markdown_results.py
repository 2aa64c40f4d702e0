"""The summary and the detailed results of the Markdown report, by implementation."""

from collections.abc import Sequence

from autotune.db.records import Status
from autotune.reports.figures import MISSING, error, mebibytes, milliseconds, percent, rate, spread
from autotune.reports.markdown_text import bullets, code, configuration, reason, table
from autotune.reports.rows import Entry
from autotune.reports.sections import Section, fastest, statuses

SUMMARY = [
    "implementation",
    ">max successful seq_len",
    "best configuration there",
    ">median ms",
    ">peak MiB",
    ">TFLOP/s",
]
DETAILS = [">seq_len", "function computed", ">density", "status", "configuration", ">median ms", ">min - max (spread)"]
DETAILS += [">repeats", ">peak MiB", ">rel error", ">max abs error", ">TFLOP/s"]


def summary(section: Section) -> str:
    """One line for each implementation: how far it came, and how well it did there."""
    lines = [[code(name), *_furthest(group), *_counts(group)] for name, group in section.implementations.items()]
    return table([*SUMMARY, ">ok", "not ok"], lines)


def details(section: Section) -> str:
    """One table for each implementation, with every length that was tried."""
    return "\n\n".join(_implementation(name, group) for name, group in section.implementations.items())


def _furthest(entries: Sequence[Entry]) -> list[str]:
    longest = max((entry.row.seq_len for entry in entries if entry.ranked_ms is not None), default=None)
    best = fastest(entry for entry in entries if entry.row.seq_len == longest)
    if best is None:
        return ["none", *[MISSING] * 4]
    row = best.row
    return [
        f"{row.seq_len:,}",
        code(row.config),
        milliseconds(row.time_ms),
        mebibytes(row.peak_memory_mib),
        rate(row.tflops),
    ]


def _counts(entries: Sequence[Entry]) -> list[str]:
    failed = [entry for entry in entries if entry.row.status != Status.OK]
    return [str(len(entries) - len(failed)), f"{len(failed)} ({statuses(failed)})" if failed else "0"]


def _implementation(name: str, entries: Sequence[Entry]) -> str:
    lengths = sorted({entry.row.seq_len for entry in entries})
    shown = [_representative([entry for entry in entries if entry.row.seq_len == n]) for n in lengths]
    parts = [f"#### {code(name)}", table(DETAILS, [_line(entry) for entry in shown])]
    if failed := [entry for entry in shown if entry.row.status != Status.OK]:
        parts.append(bullets(f"{e.row.seq_len:,}, {e.status_text}: {reason(e.row.reason)}" for e in failed))
    return "\n\n".join(parts)


def _representative(entries: Sequence[Entry]) -> Entry:
    """The fastest ok entry; else the last that ran; else one that was skipped."""
    ran = [entry for entry in entries if entry.row.status != Status.SKIPPED]
    return fastest(entries) or max(ran or entries, key=lambda entry: (entry.row.status == Status.OK, entry.record.id))


def _line(entry: Entry) -> list[str]:
    row = entry.row
    return [
        f"{row.seq_len:,}",
        code(row.pattern),
        percent(row.density),
        entry.status_text,
        configuration(row.config, entry.measured),
        milliseconds(row.time_ms),
        spread(row.time_min_ms, row.time_max_ms, row.time_ms) if row.repeats > 1 else MISSING,
        str(row.repeats),
        mebibytes(row.peak_memory_mib),
        error(row.rel_error),
        error(row.max_abs_error),
        rate(row.tflops),
    ]
