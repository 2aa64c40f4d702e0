"""What stands above the plots of a section: the headline figures, where it was measured, and how."""

from collections.abc import Sequence

from autotune.db.records import Environment
from autotune.reports.figures import mebibytes, milliseconds, moment, rate, times
from autotune.reports.rates import NO_RATES
from autotune.reports.rows import Entry
from autotune.reports.sections import Section, fastest, statuses
from autotune.reports.tally import tally
from autotune.reports.versions import versions

Pairs = dict[str, str]


def headlines(section: Section) -> list[tuple[str, str, str]]:
    """Label, figure and explanation: who is best at the longest length at which anything is ranked."""
    longest = max((entry.row.seq_len for entry in section.entries if entry.ranked_ms is not None), default=None)
    ranked = [entry for entry in section.entries if entry.row.seq_len == longest and entry.ranked_ms is not None]
    best = fastest(ranked)
    if best is None:
        return []
    at = f"at {best.row.seq_len:,} tokens"
    found = [(f"Fastest {at}", f"{milliseconds(best.row.time_ms)} ms", best.row.implementation)]
    gain, dense = section.speed_up(best), section.fastest_dense.get(best.row.seq_len)
    if gain is not None and dense is not None and dense is not best:
        found.append(("Over exact attention", times(gain), f"{milliseconds(dense.row.time_ms)} ms exact, {at}"))
    known = {entry.row.peak_memory_mib: entry for entry in reversed(ranked) if entry.row.peak_memory_mib is not None}
    if known:
        found.append((f"Least memory {at}", f"{mebibytes(min(known))} MiB", known[min(known)].row.implementation))
    believed = sum(entry.ranked_ms is not None for entry in section.entries)
    found.append(("Believed", f"{believed:,} of {len(section.entries):,}", f"rows; {len(section.flagged)} flagged"))
    return found


def facts(section: Section) -> Pairs:
    """Device, setting, versions, time, rates and counts."""
    environment = section.environment
    moments = sorted(entry.record.created_at for entry in section.entries)
    found = _device(environment) | {
        "Setting": section.setting.text,
        "Versions": _versions(environment),
        "Measured": f"{moment(moments[0])} to {moment(moments[-1])}",
    }
    found["Device's rates"] = NO_RATES
    if section.rate:
        matmul, copy = rate(section.rate.matmul_flops_per_s / 1e12), f"{section.rate.copy_bytes_per_s / 1e9:#.3g}"
        found["Device's rates"] = f"matrix product {matmul} TFLOP/s, copy {copy} GB/s, {section.rate.dtype}"
    if section.suite:
        found["Suite"] = tally(section, section.suite)
    replaced = sum(entry.measured - 1 for entry in section.entries)
    more = f"; {replaced:,} more replaced by a later one of the same configuration" if replaced else ""
    return found | {"Measurements": f"{len(section.entries):,} ({statuses(section.entries)}){more}"}


def commands(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """What was typed, and when, in that order."""
    runs = {entry.record.run for entry in entries}
    return [
        (run.command, moment(run.started_at)) for run in sorted(runs, key=lambda run: (run.started_at, run.command))
    ]


def _device(environment: Environment) -> Pairs:
    capability = f", {environment.capability}" if environment.capability else ""
    memory = f"{environment.device_memory_bytes / 2**30:,.1f} GiB"
    return {
        "Device": f"{environment.device_name} ({environment.device}{capability}, {memory})",
        "CPU": f"{environment.cpu_name}, {environment.threads} threads",
    }


def _versions(environment: Environment) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions(environment).items() if value)
