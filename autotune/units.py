"""Words a person types for lengths, sizes and durations."""

import re

from autotune.strategies.errors import AutotuneError

BYTES = {"": 1, "b": 1, "k": 2**10, "kb": 10**3, "kib": 2**10, "m": 2**20, "mb": 10**6, "mib": 2**20}
BYTES |= {"g": 2**30, "gb": 10**9, "gib": 2**30, "t": 2**40, "tb": 10**12, "tib": 2**40}
SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
TOKENS = {"": 1, "k": 2**10, "m": 2**20}


class UnitError(AutotuneError, ValueError):
    """A number or unit that cannot be read."""


def parse_lengths(text: str) -> tuple[int, ...]:
    """Sequence lengths: a list, or a range that doubles; k and m are powers of two.

    >>> parse_lengths("1000,4k"), parse_lengths("4k:32k")
    ((1000, 4096), (4096, 8192, 16384, 32768))

    Raises:
        UnitError: a length is malformed, zero, or a range runs backwards.
    """
    lengths: list[int] = []
    for part in text.split(","):
        first, colon, last = part.partition(":")
        start = _tokens(first)
        stop = _tokens(last) if colon else start
        if stop < start:
            raise UnitError(f"lengths has the range {part!r}, but it must go up, as in 4k:64k")
        while start <= stop:
            lengths.append(start)
            start *= 2
    return tuple(dict.fromkeys(lengths))


def parse_length(text: str) -> int:
    """One sequence length.

    >>> parse_length("100000"), parse_length("4k")
    (100000, 4096)

    Raises:
        UnitError: it is malformed, zero, or more than one.
    """
    lengths = parse_lengths(text)
    if len(lengths) != 1:
        raise UnitError(f"length is {text!r}, but must be a single one, such as 4096")
    return lengths[0]


def parse_bytes(text: str) -> int:
    """A size in memory.

    >>> parse_bytes("8GiB"), parse_bytes("1.5 MB")
    (8589934592, 1500000)

    Raises:
        UnitError: the text is not a size.
    """
    return int(_scaled(text, BYTES, "memory limit", "8GiB"))


def parse_seconds(text: str, name: str = "budget") -> float:
    """A duration; an error message calls it by its name.

    >>> parse_seconds("10m"), parse_seconds("90"), parse_seconds("300ms")
    (600.0, 90.0, 0.3)

    Raises:
        UnitError: the text is not a duration.
    """
    return _scaled(text, SECONDS, name, "10m")


def format_bytes(size: float) -> str:
    """A size for people.

    >>> format_bytes(1.5 * 2**30), format_bytes(300)
    ('1.50 GiB', '300 B')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size:.0f} B"


def format_ms(milliseconds: float) -> str:
    """A duration for people, to three figures.

    >>> format_ms(0.01234), format_ms(12.345), format_ms(65432.1), format_ms(1283456)
    ('0.0123 ms', '12.3 ms', '65.4 s', '1,283 s')
    """
    if milliseconds < 999.5:
        return f"{milliseconds:.3g} ms"
    seconds = milliseconds / 1e3
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:,.0f} s"


def _tokens(text: str) -> int:
    length = _scaled(text, TOKENS, "length", "4096 or 4k")
    if length < 1 or length != int(length):
        raise UnitError(f"length is {text!r}, but must be a whole number of at least 1, such as 4096 or 4k")
    return int(length)


def _scaled(text: str, units: dict[str, int] | dict[str, float], name: str, example: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in units:
        raise UnitError(f"{name} is {text!r}, but must be a number and a unit, such as {example}")
    return float(match[1]) * units[match[2].lower()]
