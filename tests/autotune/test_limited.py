"""Under a real limit on the process's memory nothing fails while a stored configuration fits, and the fastest runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autotune

ROOT = str(Path(autotune.__file__).parents[1])
PROBLEMS = 1000
NOISE = 0.02  # a tie, as everywhere


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits on growth are Linux's")
def test_random_problems_under_random_limits(tmp_path):
    program = Path(__file__).with_name("limited.py")
    environment = os.environ | {"AUTOTUNE_DB": str(tmp_path / "t.db"), "OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "t.db"), str(PROBLEMS)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout)
    possible = [one for one in results if one["fits"]]
    assert len(possible) > PROBLEMS / 3
    assert len({one["cell"] for one in possible}) == 11
    assert {one["chosen"] for one in possible} == {"sdpa", "ring", "dilated", "block_sparse"}
    assert {one["fits"] for one in results} >= {0, 1, 4}
    assert [one for one in possible if one["failed"]] == []
    assert [one for one in possible if one["excess"] > NOISE] == []
