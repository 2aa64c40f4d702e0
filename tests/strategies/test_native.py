"""Functions in C++: compiled once, where that is possible, and refused in one line where it is not."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from autotune.strategies import native
from autotune.strategies.catalog import build
from autotune.strategies.config import Config
from autotune.strategies.errors import AutotuneError, UnsupportedError
from autotune.strategies.kernel_choice import kernel_names
from autotune.strategies.pattern_dilated import Dilated
from autotune.strategies.problem import Problem

SOURCE = 'extern "C" int answer() { return ANSWER; }\n'
ANSWER = """
import sys
from pathlib import Path
from autotune.strategies import native
print(native.library(Path(sys.argv[1]), ANSWER=7).answer())
"""
ROOT = Path(__file__).parents[2]

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="there is no C++ compiler")


def forget():
    native.compiler.cache_clear()
    native.library.cache_clear()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache folder of the test's own, with nothing remembered from others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


@pytest.fixture
def source(place):
    file = place / "answer.cpp"
    file.write_text(SOURCE)
    return file


def script(file, *lines):
    file.write_text("\n".join(["#!/bin/sh", *lines]))
    file.chmod(0o755)
    return file


@pytest.fixture
def runs(place, monkeypatch):
    """Counts how often the compiler ran: CXX is a script that notes it."""
    log, (path, *_) = place / "runs", native.compiler()
    monkeypatch.setenv("CXX", str(script(place / "noting", f"echo run >> {log}", f'exec {path} "$@"')))
    forget()
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


def built(place):
    return sorted(path.name for path in (place / "cache" / "autotune").iterdir())


def answer_elsewhere(source):
    command = [sys.executable, "-c", ANSWER, str(source)]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@needs_compiler
def test_a_function_is_compiled_once_for_all_processes(source, runs):
    assert native.library(source, ANSWER=7).answer() == 7
    assert native.library(source, ANSWER=7).answer() == 7
    native.library.cache_clear()
    assert native.library(source, ANSWER=7).answer() == 7
    assert answer_elsewhere(source) == 7
    assert runs() == 1


@needs_compiler
def test_source_macros_and_flags_are_told_apart(source, runs, place, monkeypatch):
    assert native.library(source, ANSWER=7).answer() == 7
    assert native.library(source, ANSWER=8).answer() == 8
    native.library.cache_clear()
    source.write_text(SOURCE.replace("ANSWER;", "ANSWER + 1;"))
    assert native.library(source, ANSWER=7).answer() == 8
    native.library.cache_clear()
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-DUNUSED"))
    assert native.library(source, ANSWER=7).answer() == 8
    assert runs() == len(built(place)) == 4


@needs_compiler
def test_processes_that_compile_at_the_same_time_are_all_right(source, place):
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(answer_elsewhere, [source] * 2)) == [7, 7]
    assert len(built(place)) == 1


@needs_compiler
def test_a_compiler_killed_half_way_leaves_nothing_that_is_taken_for_a_library(source, place, monkeypatch):
    lines = ('while [ "$1" != -o ]; do shift; done', 'echo half > "$2"', "kill -9 $$")
    monkeypatch.setenv("CXX", str(script(place / "killed", *lines)))
    forget()
    with pytest.raises(UnsupportedError, match="exit code -9"):
        native.library(source, ANSWER=7)
    assert built(place) == []


@needs_compiler
def test_what_cannot_be_loaded_is_compiled_anew(source, runs, place):
    assert native.library(source, ANSWER=7).answer() == 7
    (name,) = built(place)
    foreign = place / "cache" / "autotune" / name
    whole = foreign.read_bytes()
    foreign.unlink()  # this process goes on with the file that it has
    foreign.write_bytes(b"no library")
    assert answer_elsewhere(source) == 7
    assert foreign.stat().st_size == len(whole)
    assert runs() == 2


@needs_compiler
def test_the_compiler_may_be_named_with_arguments(source, monkeypatch):
    path, *_ = native.compiler()
    monkeypatch.setenv("CXX", f"{path} -DEXTRA=3")
    forget()
    source.write_text('extern "C" int answer() { return ANSWER + EXTRA; }\n')
    assert native.library(source, ANSWER=7).answer() == 10


def test_a_compiler_that_is_not_there_gives_way_to_others(place, monkeypatch):
    others = native.compiler()
    monkeypatch.setenv("CXX", str(place / "nowhere"))
    forget()
    assert native.compiler() == others


@needs_compiler
def test_the_first_error_of_the_compiler_is_told(source):
    source.write_text("int answer( { nonsense\n")
    with pytest.raises(UnsupportedError, match=r"does not compile .*answer\.cpp: .*error: ") as refused:
        native.library(source)
    assert "\n" not in str(refused.value)


def test_the_compiler_speaks_english(source, place, monkeypatch):
    lines = ('[ "$LC_ALL" = C ] && echo "x.cpp: error: wrong" >&2 || echo "x.cpp: Fehler: falsch" >&2', "exit 1")
    monkeypatch.setenv("CXX", str(script(place / "german", *lines)))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    forget()
    with pytest.raises(UnsupportedError, match="error: wrong"):
        native.library(source)


@needs_compiler
def test_a_cache_folder_that_cannot_be_written_to_is_named(source, place):
    (place / "cache").write_text("a file, which no user can make folders in")
    with pytest.raises(UnsupportedError, match=r"answer\.cpp cannot be compiled and loaded: .*cache"):
        native.library(source, ANSWER=7)


@needs_compiler
def test_systems_without_uname_have_a_processor_too(source, monkeypatch):
    monkeypatch.delattr(os, "uname")
    assert native.library(source, ANSWER=7).answer() == 7


def test_without_a_compiler_there_is_no_such_kernel(source, monkeypatch):
    problem = Problem.self_attention(64, heads=1, head_dim=8)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    forget()
    with pytest.raises(UnsupportedError, match=r"needs a C\+\+ compiler: install one, or name it in CXX"):
        native.library(source, ANSWER=7)
    assert kernel_names(problem) == ("flash",)
    with pytest.raises(AutotuneError, match=r"kernel.*lanes.*flash|needs a C\+\+ compiler") as refused:
        build(problem, Dilated((32,), (1,)), Config.of("dilated", kernel="lanes"))
    assert "\n" not in str(refused.value)


@needs_compiler
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_the_instructions_are_those_that_torch_finds(place, monkeypatch, capability):
    seen = place / "seen"
    monkeypatch.setenv("CXX", str(script(place / "noting", f'echo "$@" > {seen}', "exit 1")))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    forget()
    with pytest.raises(UnsupportedError):
        native.library(Path(__file__))
    assert set(native.VECTORS[capability]) <= set(seen.read_text().split())
