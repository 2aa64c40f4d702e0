"""The tuned cells in a terminal."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from autotune.db.records import Choice, Environment
from autotune.reports.figures import finite, margin, milliseconds
from autotune.reports.implementations import family
from autotune.reports.setting import Setting
from autotune.reports.terminal_text import table

COLUMNS = ["pattern", ">length", "best configuration", ">ms", ">margin", ">tried", ">age"]


def terminal_choices(
    choices: Sequence[Choice], times_ms: Mapping[int, float | None], here: Collection[Environment], now: datetime
) -> RenderableType:
    """One table for each environment and setting, with what runs for each pattern and length.

    Args:
        choices: the decision for each cell.
        times_ms: the median of each measurement that a decision rests on, by its id.
        here: the environments of this machine's devices.
        now: by which the age of a decision is told.
    """
    if not choices:
        return Text("Nothing is tuned yet: run `autotune tune`.")
    parts: list[RenderableType] = []
    for (environment, setting), group in groupby(sorted(choices, key=_order), key=_section):
        title = f"\n{environment.device_name} ({_standing(environment, here)}): {setting.text}\n"
        parts.append(Text(title, style="bold"))
        parts.append(table(COLUMNS, [_line(choice, times_ms.get(choice.measurement_id), now) for choice in group]))
    return Group(*parts)


def _standing(environment: Environment, here: Collection[Environment]) -> str:
    """Whether what was found out there holds here."""
    if environment in here:
        return "current software"
    alike = (each for each in here if environment.is_same_device(each))
    if (ours := next(alike, None)) is not None:
        return f"stale: {environment.differences(ours)}"
    return "another device"


def _section(choice: Choice) -> tuple[Environment, Setting]:
    return choice.environment, Setting.of(choice.problem)


def _order(choice: Choice) -> tuple[str | int, ...]:
    environment, problem = choice.environment, choice.problem
    place = (environment.device_name, environment.fingerprint, Setting.of(problem).text)
    return (*place, family(choice.pattern, problem.kv_len), problem.kv_len)


def _line(choice: Choice, time_ms: float | None, now: datetime) -> list[str]:
    days = (now - choice.created_at).days
    return [
        family(choice.pattern, choice.problem.kv_len),
        f"{choice.problem.kv_len:,}",
        choice.config.text,
        milliseconds(time_ms),
        margin(finite(choice.margin)),
        f"{choice.candidates:,}",
        "today" if days == 0 else f"{days:,} d",
    ]
