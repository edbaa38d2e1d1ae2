"""The house: wings one above the other, files of one concept, short functions."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted((ROOT / "pyrox").rglob("*.py"))

# From the ground up: a wing imports from itself and from those before it.
WINGS = (
    "_hyper",
    "_numerics",
    "_solvers",
    "_features",
    "_kernels",
    "_posterior",
    "_paths",
    "_calibration",
    "_inference",
    "_functionals",
    "_decisions",
    "_records",
)


def imports_of(path: pathlib.Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parents) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def first_circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, empty if there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module]):
            circle = visit(target, [*trail, module])
            if circle:
                return circle
        done.add(module)
        return []

    return next((c for m in graph if (c := visit(m, []))), [])


def import_graph() -> dict[str, set[str]]:
    modules = {module_name(path): path for path in SOURCES}
    return {
        name: {m for m in imports_of(path) if m in modules and m != name}
        for name, path in modules.items()
    }


def wing_of(module: str) -> str | None:
    found = re.match(r"pyrox\.gp\.(_\w+)", module)
    return found[1] if found else None


def upward(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports from a wing above; from outside, all that do not use the public door."""
    found = []
    for module in sorted(graph):
        floor = WINGS.index(wing_of(module) or WINGS[0])
        for target in sorted(filter(wing_of, graph[module])):
            above = WINGS.index(wing_of(target) or "") > floor
            if above or wing_of(module) is None:
                found.append((module, target))
    return found


def test_no_file_imports_in_a_circle():
    assert first_circle(import_graph()) == []


def test_no_wing_imports_from_one_above():
    graph = import_graph()
    assert upward(graph) == []
    # The graph is the real one: these arrows are known.
    below = {"pyrox.gp._numerics.lapack", "pyrox.gp._solvers.inverse"}
    assert graph["pyrox.gp._solvers.cholesky"] == below
    below = {"pyrox.gp._posterior.exact", "pyrox.gp._features.maps"}
    assert graph["pyrox.gp._paths.samplers"] >= below


def test_a_circle_would_be_found():
    assert first_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_an_import_from_above_would_be_found(tmp_path, monkeypatch):
    """In every form: relative, absolute, inside a function, for types only."""
    room = tmp_path / "pyrox" / "gp" / "_kernels" / "room.py"
    room.parent.mkdir(parents=True)
    for line in (
        "from .._paths.path import PathwiseFunction",
        "from .._paths import path",
        "import pyrox.gp._paths.path",
        "def f():\n    from pyrox.gp._paths.path import evaluate",
        "if TYPE_CHECKING:\n    from .._paths import path",
    ):
        room.write_text(line)
        with monkeypatch.context() as patch:
            patch.setattr(f"{__name__}.ROOT", tmp_path)
            graph = {module_name(room): imports_of(room)}
        assert upward(graph), line
    assert upward({"pyrox.plot": {"pyrox.gp._paths.path"}})
    assert not upward({"pyrox.gp._paths.path": {"pyrox.gp._kernels.kernel"}})


def test_every_wing_has_its_floor_and_every_text_their_order():
    folders = {path.name for path in (ROOT / "pyrox" / "gp").iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(WINGS)
    files = {path.name for path in (ROOT / "pyrox" / "gp").glob("*.py*")}
    assert files == {"__init__.py", "__init__.pyi"}
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| `(_\w+)` \|", text, flags=re.MULTILINE)
    assert tuple(reversed(table)) == WINGS


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_file_is_a_concept(path):
    assert len(path.read_text().splitlines()) <= 400


def long_functions(path: pathlib.Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[bool(ast.get_docstring(node)) :]
            if body and (body[-1].end_lineno or 0) - body[0].lineno >= 60:
                found.append(node.name)
    return found


def test_functions_are_short():
    assert [name for path in SOURCES for name in long_functions(path)] == []
