"""The house: imports only go down, in no circle, and always by the full dotted name."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What a floor may import of `autotune`: the floors below it, and itself.
BELOW = {
    "strategies": {"strategies"},
    "db": {"db", "strategies"},
    "reports": {"reports", "db", "strategies"},
    "autotune": {"autotune", "reports", "db", "strategies"},
}
FOLDERS = tuple(BELOW)


def files_of(folder):
    # Not through autotune's three links, which lead to the other floors.
    linked = {ROOT / "autotune" / name for name in ("strategies", "db", "reports")}
    found = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if not linked & set(path.parents)]


def module_name(path):
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = ["autotune", *([] if folder == "autotune" else [folder]), *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for folder in FOLDERS for path in files_of(folder)}


def floor_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ("strategies", "db", "reports") else "autotune"


def imports_of(path, *, for_types=True):
    """Full names of what a file imports, anywhere in it; without ``for_types`` only what running it may import."""
    module = module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, *filter(None, [base])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in child.names if f"{base}.{alias.name}" in FILES)
            elif for_types or not _only_for_types(child):
                yield from visit(child)

    return set(visit(ast.parse(path.read_text(encoding="utf-8"))))


def _only_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize(
    ("folder", "module"),
    [
        ("autotune", "autotune"),
        ("strategies", "autotune.strategies.tiles"),
        ("db", "autotune.db.migrations.env"),
        ("reports", "autotune.reports.rows"),
    ],
)
def test_every_floor_is_seen(folder, module):
    assert len(files_of(folder)) > 5
    assert module in FILES


@pytest.mark.parametrize("module", FILES)
def test_imports_only_go_down(module):
    ours = {name for name in imports_of(FILES[module]) if name.split(".")[0] == "autotune"}
    upward = {name for name in ours if name != "autotune" and floor_of(name) not in BELOW[floor_of(module)]}
    assert upward == set()
    if floor_of(module) != "autotune":
        assert "autotune" not in ours


@pytest.mark.parametrize("module", FILES)
def test_imports_name_files_by_their_full_name(module):
    names = imports_of(FILES[module])
    assert {name for name in names if name.split(".")[0] in ("strategies", "db", "reports", "tests")} == set()
    assert {name for name in names if name.split(".")[0] == "autotune" and name not in FILES} == set()


def test_no_import_goes_in_a_circle():
    graph = {
        module: {name for name in imports_of(path, for_types=False) if name in FILES and name != module}
        for module, path in FILES.items()
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(FILES)
    assert (
        order.index("autotune.strategies.problem") < order.index("autotune.db.store") < order.index("autotune.tuning")
    )


@pytest.mark.parametrize("name", ["strategies", "db", "reports"])
def test_the_links_lead_to_the_floors(name):
    link = ROOT / "autotune" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["strategies", "db", "reports"])
def test_the_floors_are_flat_but_for_migrations(name):
    below = {path.relative_to(ROOT / name).parts[0] for path in files_of(name) if path.parent != ROOT / name}
    assert below <= {"migrations"}
