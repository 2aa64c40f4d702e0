"""The configuration part of the Markdown report: what was measured, where, with which versions, by which commands."""

from collections import Counter
from collections.abc import Iterable

from autotune.db.records import Environment, Rate
from autotune.reports.figures import moment, rate
from autotune.reports.markdown_text import bullets, code
from autotune.reports.rates import NO_RATES
from autotune.reports.rows import Entry
from autotune.reports.sections import Section, statuses
from autotune.reports.setting import Setting
from autotune.reports.versions import versions


def configuration(section: Section) -> str:
    """Device, setting, versions, measured rates, commands, and how many measurements stand."""
    items = [*_device(section.environment), _setting(section.setting), _versions(section.environment)]
    items.append(_rates(section.rate) if section.rate else f"Measured rates: {NO_RATES}")
    return bullets([*items, _measurements(section), *_commands(section.entries)])


def _device(environment: Environment) -> list[str]:
    memory = f"{environment.device_memory_bytes / 2**30:,.1f} GiB"
    capability = f", capability {code(environment.capability)}" if environment.capability else ""
    return [
        f"Device: {code(environment.device_name)} ({environment.device}{capability})",
        f"Device memory: {memory}",
        f"CPU: {code(environment.cpu_name)}, {environment.threads} threads",
    ]


def _setting(setting: Setting) -> str:
    parts = {
        "dtype": setting.dtype,
        "batch": setting.batch,
        "heads": setting.heads,
        "kv_heads": setting.kv_heads,
        "head_dim": setting.head_dim,
        "causal": "yes" if setting.causal else "no",
        "direction": setting.direction,
        **({"kv_home": setting.kv_home} if setting.kv_home == "host" else {}),
        "query_len": "the same as seq_len" if setting.query_len is None else setting.query_len,
    }
    return "Setting: " + ", ".join(f"{name} {value}" for name, value in parts.items())


def _versions(environment: Environment) -> str:
    return "Versions: " + ", ".join(f"{name} {value or 'none'}" for name, value in versions(environment).items())


def _rates(best: Rate) -> str:
    copy = f"{best.copy_bytes_per_s / 1e9:#.3g} GB/s read and written"
    return f"Measured rates, {best.dtype}: matrix product {rate(best.matmul_flops_per_s / 1e12)} TFLOP/s, copy {copy}"


def _measurements(section: Section) -> str:
    replaced = sum(entry.measured - 1 for entry in section.entries)
    text = f"Measurements: {len(section.entries)} ({statuses(section.entries)})"
    return f"{text}; {replaced} more replaced by a later one of the same configuration" if replaced else text


def _commands(entries: Iterable[Entry]) -> list[str]:
    runs = Counter(entry.record.run for entry in entries)
    ordered = sorted(runs.items(), key=lambda pair: (pair[0].started_at, pair[0].command))
    return [
        f"Measured by: {code(run.command)}, started {moment(run.started_at)} ({count} of the measurements)"
        for run, count in ordered
    ]
