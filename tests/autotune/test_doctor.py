"""``autotune doctor`` says what is wrong and what to do, and its exit code tells a script."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from autotune import doctor
from autotune.cli import main
from autotune.strategies.native import compiler

from .records import fill


@pytest.fixture
def probes(monkeypatch):
    """How the probe of each dtype ends; all well unless the test says otherwise."""
    ends = {}

    def run(command, **_):
        name = command[-1].partition("dtype=torch.")[2].partition(")")[0]
        assert name in ("float32", "bfloat16", "float16")
        code, stderr = ends.get(name, (0, b""))
        return SimpleNamespace(returncode=code, stderr=stderr)

    monkeypatch.setattr(doctor, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setenv("CXX", "/usr/bin/c++")
    compiler.cache_clear()
    yield ends
    compiler.cache_clear()


def diagnose(database):
    result = CliRunner().invoke(main, ["doctor", "--db", str(database)])
    lines = {}
    for line in result.stdout.splitlines():
        verdict, name, detail = line[:4].strip(), *line[5:].split(": ", 1)
        lines[name] = (verdict, detail)
    return result.exit_code, lines


def test_where_all_is_well_it_says_so(probes, tmp_path):
    fill(tmp_path / "t.db", [])
    code, lines = diagnose(tmp_path / "t.db")
    assert code == 0
    assert {verdict for verdict, _ in lines.values()} == {"ok"}
    assert {"torch", "compiler", "float32", "bfloat16", "float16", "database"} < set(lines)
    assert lines["database"][1] == f"{tmp_path / 't.db'}, 0 cells tuned"
    assert "free of" in (lines.get("cpu") or lines["cuda:0"])[1]


def test_no_database_yet_is_no_fault(probes, tmp_path):
    code, lines = diagnose(tmp_path / "t.db")
    assert (code, lines["database"][0]) == (0, "ok")
    assert "autotune tune" in lines["database"][1]
    assert not (tmp_path / "t.db").exists()


def test_a_file_that_is_no_database_is_a_fault(probes, tmp_path):
    path = tmp_path / "t.db"
    path.write_text("not a database\n" * 100)
    code, lines = diagnose(path)
    assert (code, lines["database"][0]) == (1, "BAD")
    assert "not a SQLite database" in lines["database"][1]
    assert lines["float32"][0] == "ok"


@pytest.mark.parametrize(
    ("end", "named"),
    [
        ((-4, b""), ("signal 4", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16")),
        ((1, b"Traceback:\n  line\nRuntimeError: not implemented for 'Half'\n"), ("RuntimeError: not implemented",)),
    ],
    ids=["killed", "raised"],
)
def test_a_dtype_that_the_cpu_cannot_do_is_a_fault_of_that_dtype_alone(probes, tmp_path, end, named):
    probes["bfloat16"] = end
    code, lines = diagnose(tmp_path / "t.db")
    assert code == 1
    assert {name for name, (verdict, _) in lines.items() if verdict == "BAD"} == {"bfloat16"}
    assert all(part in lines["bfloat16"][1] for part in named)
    assert "Traceback" not in lines["bfloat16"][1]


def test_no_compiler_is_a_fault_with_a_remedy(probes, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX")
    compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    code, lines = diagnose(tmp_path / "t.db")
    assert (code, lines["compiler"][0]) == (1, "BAD")
    assert "install g++" in lines["compiler"][1]


@pytest.mark.slow
def test_the_probe_is_a_program_that_runs():
    assert doctor._dtype("float32").good
    broken = doctor._dtype("float31")
    assert not broken.good
    assert "float31" in broken.detail
