"""What is installed: one top-level name, and every file of the four folders."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "autotune": "autotune",
    "strategies": "autotune/strategies",
    "db": "autotune/db",
    "reports": "autotune/reports",
}
LINKS = tuple(ROOT / "autotune" / name for name in ("strategies", "db", "reports"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what git has or would take, so that building leaves nothing in the checkout."""
    target = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        path, copy = ROOT / name, target / name
        if path.is_symlink() or path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                copy.symlink_to(path.readlink())
            else:
                copy.write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """A freshly built wheel."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "-w", target, "."], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_nothing_but_autotune_reaches_site_packages(names):
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"autotune"}
    assert len(tops) == 2


def test_every_python_file_is_in_once(names):
    expected = set()
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            if not any(link in path.parents for link in LINKS):
                expected.add(f"{place}/{path.relative_to(ROOT / folder).as_posix()}")
    assert len(expected) > 60
    assert {name for name in names if name.endswith(".py")} == expected


def test_what_is_no_python_is_in_too(names):
    assert "autotune/py.typed" in names
    assert "autotune/db/migrations/env.py" in names
    assert any(name.startswith("autotune/db/migrations/versions/0001") for name in names)
    shipped = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not any(link in path.parents for link in LINKS)
    }
    for_the_readme = {name for name in shipped if name.startswith("autotune/reports/sample/")}
    assert {"autotune/reports/page.html.j2"} <= shipped - for_the_readme <= names
    assert not for_the_readme & names


def test_no_tests_and_no_leftovers_are_in(names):
    tests = [part for name in names for part in Path(name).parts if part.startswith(("test", "conftest"))]
    assert not tests
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_command_is_declared(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "autotune = autotune.cli:main" in archive.read(name).decode()


def test_the_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import autotune, torch;"
        "from autotune.db.store import Store; Store.open('t.db').close();"
        "q = torch.randn(1, 2, 16, 8); autotune.attention(q, q, q); print(autotune.__file__)"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(site / "autotune" / "__init__.py")
    assert (tmp_path / "t.db").exists()
