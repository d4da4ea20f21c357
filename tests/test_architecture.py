"""Each layer of the package imports only layers below it, and no module imports in a circle."""

import ast
from pathlib import Path

import es_ray

PACKAGE = Path(es_ray.__file__).parent
LAYERS = (
    "__main__", "cli", "driver", "callbacks", "exporting", "judge", "workers", "preparation", "doctor",
    "ray_cluster", "runs", "evaluation", "engines", "experiment", "models", "tasks", "lora", "evolution",
    "config", "interrupts", "garbage", "imports", "paths", "errors",
)  # fmt: skip
"""From top to bottom, as in CONTRIBUTING.md."""
MOST_AT_THE_TOP = 10


def modules() -> dict[str, Path]:
    """Every module by its dotted name, except `es_ray` itself."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if "_data" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    del found["es_ray"]
    return found


def imports(name: str, file: Path, known: set[str]) -> set[str]:
    """The modules of the package that one imports, in functions and for type checkers too."""
    wanted = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {other for other in wanted if other in known and other != name}


def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(name, file, set(found)) for name, file in found.items()}


def layer(name: str) -> str:
    return name.split(".")[1]


def test_every_module_is_in_a_known_layer():
    assert {layer(name) for name in modules()} == set(LAYERS)


def test_no_layer_imports_one_above_it():
    place = {name: number for number, name in enumerate(LAYERS)}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if place[layer(other)] < place[layer(name)]
    ]
    assert not wrong


def test_only_the_engines_layer_imports_an_engine_by_name():
    """The others ask the registry: an engine in a user's file is as good as one of the package's."""
    folders = {file.parent.name for file in (PACKAGE / "engines").glob("*/spec.py")}
    assert folders >= {"hf", "sglang"}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if layer(name) != "engines" and other.split(".")[1:2] == ["engines"] and folders & {*other.split(".")}
    ]
    assert not wrong


def test_no_module_imports_in_a_circle():
    """A package counts as its __init__ alone: what is inside it may be imported by what it imports."""
    edges, done, path = graph(), set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(edges[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(edges):
        visit(name)


def test_few_modules_lie_directly_in_the_package():
    there = [file.name for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]
    assert len(there) <= MOST_AT_THE_TOP, there
