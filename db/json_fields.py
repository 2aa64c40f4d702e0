"""Frozen data from JSON values, each of which must be of its field's type."""

from collections.abc import Callable, Mapping
from datetime import datetime
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from autotune.db.records import Environment, Measurement, Run, Status
from autotune.strategies.problem import Problem

Fact = TypeVar("Fact", Environment, Measurement, Problem, Run)
Reader = Callable[[Any], Any]


def fact(kind: type[Fact], entry: Mapping[str, Any], *besides: str) -> Fact:
    """The frozen data whose fields are in the entry; ``besides`` names others in it, which are not looked at.

    Raises:
        ValueError: a value is not of its field's type, or nothing is known of a name.
        TypeError: a field is missing.
    """
    readers = FIELDS[kind]
    if unknown := entry.keys() - readers.keys() - set(besides):
        raise ValueError(f"{kind.__name__.lower()} has {', '.join(sorted(unknown))}, which nothing is known of")
    return kind(**{name: readers[name](value) for name, value in entry.items() if name in readers})


def _reader(hint: Any) -> Reader:
    if hint in READERS:
        return READERS[hint]
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return optional(READERS[kinds[0]]) if NoneType in get_args(hint) else text


def optional(read: Reader) -> Reader:
    """The reader that takes null too."""
    return lambda value: None if value is None else read(value)


def text(value: Any) -> str:
    """A JSON string."""
    return str(_of_kind(str, value))


def whole(value: Any) -> int:
    """A JSON number without a fraction."""
    return int(_of_kind(int, value))


def number(value: Any) -> float:
    """A JSON number, or infinity as text, for which JSON has no number.

    >>> number(1), number("inf")
    (1.0, inf)
    """
    return float(value if value in ("inf", "-inf") else _of_kind((int, float), value))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(number(each) for each in value)


def _truth(value: Any) -> bool:
    return bool(_of_kind(bool, value))


def moment(value: Any) -> datetime:
    """A date and time with its zone, as ISO 8601 writes it."""
    read = datetime.fromisoformat(value)
    if read.tzinfo is None:
        raise ValueError(f"moment {value} has no zone")
    return read


def _of_kind(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} stands where something else must stand")
    return value


# By the type a field is declared with.
READERS: dict[Any, Reader] = {
    str: text,
    int: whole,
    float: number,
    bool: _truth,
    datetime: moment,
    Status: Status,
    tuple[float, ...]: _numbers,
}

# How each field is read.
FIELDS: dict[type, dict[str, Reader]] = {
    kind: {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    for kind in (Environment, Measurement, Problem, Run)
}
