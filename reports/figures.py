"""Numbers as a person reads them; a figure that is missing is a dash."""

import math
from datetime import UTC, datetime

MISSING = "-"


def finite(value: float | None) -> float | None:
    """The value, or None where it is missing, infinite or not a number.

    >>> finite(1.5), finite(float("nan")), finite(float("inf")), finite(None)
    (1.5, None, None, None)
    """
    return value if value is not None and math.isfinite(value) else None


def milliseconds(value: float | None) -> str:
    """A duration, with more digits the shorter it is.

    >>> milliseconds(0.01234), milliseconds(12.345), milliseconds(12345.6), milliseconds(123456.7), milliseconds(None)
    ('0.0123', '12.35', '12,345.6', '123,457', '-')
    """
    if value is None:
        return MISSING
    for limit, digits in ((1.0, 4), (10.0, 3), (1000.0, 2), (100_000.0, 1)):
        if value < limit:
            return f"{value:,.{digits}f}"
    return f"{value:,.0f}"


def mebibytes(value: float | None) -> str:
    """A size in MiB.

    >>> mebibytes(4.25), mebibytes(2048.25), mebibytes(None)
    ('4.2', '2,048', '-')
    """
    return MISSING if value is None else f"{value:,.{1 if value < 1000 else 0}f}"


def error(value: float | None) -> str:
    """A rounding error."""
    return MISSING if value is None else f"{value:.1e}"


def rate(value: float | None) -> str:
    """TFLOP/s, three digits."""
    return MISSING if value is None else f"{value:#.3g}"


def percent(value: float | None) -> str:
    """A share.

    >>> percent(0.09179)
    '9.18 %'
    """
    return MISSING if value is None else f"{value:.2%}".replace("%", " %")


def times(value: float | None) -> str:
    """A ratio.

    >>> times(3.456), times(0.00123)
    ('3.46x', '0.00123x')
    """
    if value is None:
        return MISSING
    return f"{value:,.2f}x" if value >= 0.1 else f"{value:.3g}x"


def margin(value: float | None) -> str:
    """By how much the runner-up is slower; a winner behind it won a tie, as the default does.

    >>> margin(0.125), margin(-0.01), margin(None)
    ('12.50 %', 'tie', '-')
    """
    return "tie" if value is not None and value <= 0 else percent(value)


def spread(low: float | None, high: float | None, median: float | None) -> str:
    """Shortest and longest repeat, and their distance as a share of the median.

    >>> spread(9.0, 11.0, 10.0)
    '9.000 - 11.00 (20.00 %)'
    """
    if low is None or high is None or not median:
        return MISSING
    return f"{milliseconds(low)} - {milliseconds(high)} ({percent((high - low) / median)})"


def layers(value: int | None) -> str:
    """How many layers, or that no number is enough."""
    return "never" if value is None else f"{value:,}"


def moment(value: datetime) -> str:
    """A point in time, in UTC; a time without a zone is taken to be in UTC already.

    >>> moment(datetime(2026, 1, 2, 3, 4, 5))
    '2026-01-02 03:04:05 UTC'
    """
    return f"{(value.astimezone(UTC) if value.tzinfo else value):%Y-%m-%d %H:%M:%S} UTC"
