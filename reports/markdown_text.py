"""Pieces of Markdown: code spans, tables, multi-line reasons."""

import re
from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """Text from outside as a code span, on one line, shown as it is whatever characters it holds.

    >>> code("a | b"), code("say `x`")
    ('`a | b`', '`` say `x` ``')
    """
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def reason(text: str) -> str:
    r"""Why something is not ok, line by line and in full.

    >>> reason("out of memory\n  tried 2 GiB")
    '`out of memory`<br>`tried 2 GiB`'
    """
    lines = [code(line) for line in text.splitlines() if line.strip()]
    return "<br>".join(lines) or "no reason recorded"


def configuration(text: str, measured: int = 1) -> str:
    """A configuration, and how often it was measured if more than once."""
    return f"{code(text)} (measured {measured} times)" if measured > 1 else code(text)


def plain(text: str) -> str:
    """Text from outside where a code span will not do, such as in a heading."""
    return re.sub(r"([\\`*<>\[\]])", r"\\\1", " ".join(text.split()))


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    r"""A table; a column whose name starts with ``>`` is aligned to the right.

    >>> print(table(["name", ">ms"], [["a|b", "1.0"]]))
    | name | ms |
    | :--- | ---: |
    | a\|b | 1.0 |
    """
    rules = ["---:" if name.startswith(">") else ":---" for name in columns]
    cells = [[name.removeprefix(">") for name in columns], rules, *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells)


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)
