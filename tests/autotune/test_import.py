"""Importing the package is cheap, help is instant, and every promised name is there."""

import os
import subprocess
import sys
import time

import pytest

import autotune

HELP_S = 0.3
HEAVY = ("torch", "numpy", "optuna", "sqlalchemy", "alembic", "rich")


def loaded_after(code):
    """The heavy packages that a fresh interpreter has loaded after running the code."""
    code += f"\nimport sys; print('loaded:', *(name for name in {HEAVY} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.rpartition("loaded:")[2].split()


@pytest.mark.parametrize(
    "code",
    [
        "import autotune; autotune.__version__; dir(autotune)",
        "import autotune.cli",
        "from autotune.cli import main; main(['--help'], standalone_mode=False)",
        "from autotune.cli import main; main(['--version'], standalone_mode=False)",
        "from autotune.cli import main; main(['tune', '--help'], standalone_mode=False)",
    ],
    ids=["import", "import_cli", "help", "version", "command_help"],
)
def test_nothing_heavy_is_loaded(code):
    assert loaded_after(code) == []


def test_a_name_that_needs_torch_loads_it():
    assert "torch" in loaded_after("import autotune; autotune.Dense")


@pytest.mark.parametrize("words", [["--help"], ["tune", "--help"]], ids=" ".join)
def test_help_is_instant(words):
    def once():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "autotune.cli", *words], check=True, capture_output=True)
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < HELP_S


def test_help_names_every_command():
    result = subprocess.run(
        [sys.executable, "-m", "autotune.cli", "--help"], capture_output=True, text=True, env=os.environ | {"LANG": "C"}
    )
    listed = {line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert {"tune", "report", "show", "explain", "doctor"} <= listed


@pytest.mark.parametrize("name", autotune.__all__)
def test_every_promised_name_resolves(name):
    assert getattr(autotune, name).__name__ == name


def test_a_name_is_the_same_object_as_at_its_home():
    from autotune.strategies.pattern import Dense
    from autotune.tuning import tune

    assert autotune.Dense is Dense
    assert autotune.tune is tune


def test_the_names_of_the_design_are_promised():
    promised = {"attention", "explain", "tune", "Dense", "Dilated", "BlockSparse", "LocalWindow", "Problem", "Config"}
    assert promised <= set(autotune.__all__)
    assert dir(autotune) == sorted(autotune.__all__)


def test_a_star_import_brings_exactly_the_promised_names():
    names = {}
    exec("from autotune import *", names)
    assert set(names) - {"__builtins__"} == set(autotune.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'autotune' has no attribute 'atention'"):
        autotune.atention  # noqa: B018 - the access is the test
    with pytest.raises(ImportError):
        from autotune import atention  # noqa: F401
    assert not hasattr(autotune, "__wrapped__")
