"""The summary and the detailed results of the Markdown report, by implementation."""

from autotune.reports.figures import MISSING, error, mebibytes, milliseconds, percent, rate, spread
from autotune.reports.markdown_text import bullets, code, configuration, reason, table
from autotune.reports.rows import Entry
from autotune.reports.sections import NOT_RUN, Section, fastest, statuses

SUMMARY = [
    "implementation",
    ">max successful seq_len",
    "best configuration there",
    ">median ms",
    ">peak MiB",
    ">TFLOP/s",
]
DETAILS = [">seq_len", "function computed", ">density", "status", "configuration", ">median ms", ">min - max (spread)"]
DETAILS += [
    ">repeats",
    ">peak MiB",
    ">predicted MiB",
    ">rel error",
    ">max abs error",
    ">TFLOP/s",
    ">share of matmul rate",
]


def summary(section: Section) -> str:
    """One line for each implementation: how far it came, and how well it did there."""
    lines = [
        [code(name), *_furthest(group), *_counts(section, name)] for name, group in section.implementations.items()
    ]
    return table([*SUMMARY, ">ok", "not ok"], lines)


def details(section: Section) -> str:
    """One table for each implementation, with every length that was tried, by it or by others of a suite."""
    return "\n\n".join(_implementation(section, name) for name in section.implementations)


def _furthest(entries: list[Entry]) -> list[str]:
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


def _counts(section: Section, name: str) -> list[str]:
    group = section.implementations[name]
    missing = [entry for _, entry in section.by_length(name) if entry is None]
    others = [*missing, *(entry for entry in group if entry.ranked_ms is None)]
    return [str(len(group) + len(missing) - len(others)), f"{len(others)} ({statuses(others)})" if others else "0"]


def _implementation(section: Section, name: str) -> str:
    shown = section.by_length(name)
    lines = [
        _line(entry) if entry else [f"{n:,}", MISSING, MISSING, NOT_RUN, *[MISSING] * (len(DETAILS) - 4)]
        for n, entry in shown
    ]
    parts = [f"#### {code(name)}", table(DETAILS, lines)]
    if notes := [_note(entry) for _, entry in shown if entry and entry.ranked_ms is None]:
        parts.append(bullets(notes))
    return "\n\n".join(parts)


def _note(entry: Entry) -> str:
    """Why a row is not ok, or not believed."""
    return f"{entry.row.seq_len:,}, {entry.status_text}: {reason(entry.row.flag or entry.row.reason)}"


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
        mebibytes(row.predicted_memory_mib),
        error(row.rel_error),
        error(row.max_abs_error),
        rate(row.tflops),
        percent(row.matmul_share),
    ]
