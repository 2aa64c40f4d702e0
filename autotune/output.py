"""Files that commands write."""

import os
from pathlib import Path

from autotune.strategies.errors import AutotuneError


class OutputError(AutotuneError, OSError):
    """A file that cannot be written where it was asked for."""


def write_output(output: Path, text: str) -> None:
    """Write a file, whole or not at all: what was there stays until the new text is on disk.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        if output.exists() and not output.is_file():  # a pipe or a terminal; a folder refuses
            output.write_text(text, encoding="utf-8")
        else:
            _replace(output.resolve(), text)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {error.strerror}; name another file with --output") from error


def _replace(output: Path, text: str) -> None:
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
