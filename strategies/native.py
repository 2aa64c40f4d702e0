"""Functions in C++, compiled where they run: once for each kind of processor, kept in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import platformdirs
import torch

from autotune.strategies.errors import UnsupportedError

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared")
# By what torch takes the processor for, so that a cache folder may serve several machines.
VECTORS = {"AVX512": ("-mavx512f", "-mfma"), "AVX2": ("-mavx2", "-mfma")}
COMPILE_S = 120


@cache
def compiler() -> tuple[str, ...] | None:
    """The C++ compiler to use with arguments it is to have, ``CXX`` before others; None if there is none."""
    commands = (shlex.split(os.environ.get("CXX", "")), *([name] for name in COMPILERS))
    return next(((path, *rest) for name, *rest in filter(None, commands) if (path := shutil.which(name))), None)


@cache
def library(source: Path, *flags: str, **macros: str | int) -> ctypes.CDLL:
    """The functions of a source file, compiled with further flags and some macros, or as they were compiled before.

    Raises:
        UnsupportedError: there is no compiler, it does not compile the file, or the cache folder is not writable.
    """
    if (found := compiler()) is None:
        raise UnsupportedError(f"{source.name} needs a C++ compiler: install one, or name it in CXX")
    vectors = VECTORS.get(torch.backends.cpu.get_cpu_capability(), ())
    command = [*found, *FLAGS, *vectors, *flags, *(f"-D{name}={value}" for name, value in sorted(macros.items()))]
    text = b"".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h"))))
    key = hashlib.sha256("\0".join([*command, platform.machine()]).encode() + text).hexdigest()[:16]
    try:
        folder = Path(platformdirs.user_cache_dir("autotune", ensure_exists=True))
        built = folder / f"{source.stem}-{key}.so"
        with suppress(OSError):  # it is not there yet, or was made on another system
            return ctypes.CDLL(str(built))
        _compile([*command, str(source)], built)
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise UnsupportedError(f"{source.name} cannot be compiled and loaded: {error}") from error


def _compile(command: list[str], built: Path) -> None:
    """Put the whole library in its place at once: other processes may be at the same."""
    english = os.environ | {"LC_ALL": "C"}  # its errors are looked for by that word
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        part = Path(folder, built.name)
        run = [*command, "-o", str(part)]
        try:
            subprocess.run(run, check=True, capture_output=True, text=True, timeout=COMPILE_S, env=english)
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if "error" in line] or [f"exit code {error.returncode}"]
            raise UnsupportedError(f"{command[0]} does not compile {command[-1]}: {said[0]}") from error
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(f"{command[0]} took longer than {COMPILE_S} s over {command[-1]}") from error
        with part.open("rb") as file:
            os.fsync(file.fileno())  # after a power cut half of it would kill whoever loads it
        part.replace(built)
