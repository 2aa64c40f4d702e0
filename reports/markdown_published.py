"""The published figures of the Markdown report, beside ours."""

from collections.abc import Sequence
from itertools import product

from autotune.db.records import Status
from autotune.reports.figures import MISSING, error, finite, mebibytes, milliseconds, times
from autotune.reports.markdown_text import code, plain, table
from autotune.reports.published import Published
from autotune.reports.rows import Entry
from autotune.reports.sections import NOT_RUN, Section

COLUMNS = ["implementation", ">seq_len", "published", ">published ms", ">published MiB", "ours", ">our ms"]
COLUMNS += [">our MiB", ">our rel error", ">published ms / our ms"]


def beside(section: Section, published: Sequence[Published]) -> str:
    """Each published figure with our row of the same name and length."""
    theirs = {(each.implementation, each.seq_len): each for each in published}
    names = dict.fromkeys(each.implementation for each in published)
    keys = list(product(names, sorted({each.seq_len for each in published})))
    ran = sum(each.status == Status.OK for each in theirs.values())
    note = (
        "The published figures were taken on another device, and were not verified by us. "
        f"{ran:,} of their {len(keys):,} cells ran."
    )
    if not section.implementations.keys() & names.keys():
        return f"{note} None of their implementations is among ours here; `--suite` shows ours under published names."
    ours = {(name, n): entry for name in section.implementations for n, entry in section.by_length(name)}
    lines = [_line(name, n, theirs.get((name, n)), ours.get((name, n))) for name, n in keys]
    return f"{note}\n\n{table(COLUMNS, lines)}"


def _line(name: str, seq_len: int, published: Published | None, ours: Entry | None) -> list[str]:
    time_ms = finite(published.time_ms) if published else None
    gain = time_ms / ours.ranked_ms if time_ms and ours and ours.ranked_ms else None
    return [code(name), f"{seq_len:,}", *_theirs(published), *_ours(ours), times(gain)]


def _theirs(published: Published | None) -> list[str]:
    if published is None:
        return ["not published", *[MISSING] * 2]
    status = f"{published.status} ({published.failure})" if published.failure else published.status
    return [plain(status), milliseconds(finite(published.time_ms)), mebibytes(finite(published.peak_memory_mib))]


def _ours(entry: Entry | None) -> list[str]:
    if entry is None:
        return [NOT_RUN, *[MISSING] * 3]
    row = entry.row
    return [entry.status_text, milliseconds(row.time_ms), mebibytes(row.peak_memory_mib), error(row.rel_error)]
