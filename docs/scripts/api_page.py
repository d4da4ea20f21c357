"""docs/reference/python.md: what `es_ray.__all__` names, with signatures and docstrings."""

import ast
import inspect
import textwrap
from typing import Any

from page_text import page, prose
from pydantic import BaseModel

import es_ray

INTRODUCTION = """\
These names stay as they are within a major version. Everything else may change, including the base classes
of update rules and engines. [How to write a reward](../how-to/own-reward.md), and a callback:
[examples/csv_log.py](../../examples/csv_log.py)."""


def api_page() -> str:
    """The page."""
    names = [name for name in es_ray.__all__ if not name.startswith("__")]
    found = {name: getattr(es_ray, name) for name in names}
    functions = [_function(name, value) for name, value in found.items() if inspect.isfunction(value)]
    classes = [_class(name, value) for name, value in found.items() if inspect.isclass(value)]
    return page("Python API", INTRODUCTION, "## Functions", *functions, "## Classes", *classes)


def _function(name: str, function: Any) -> str:
    return "\n\n".join([f"### es_ray.{name}", _signature(function), prose(inspect.getdoc(function))])


def _class(name: str, kind: type) -> str:
    parts = [f"### es_ray.{name}", prose(kind.__doc__)]
    if issubclass(kind, BaseModel):
        parts.append("Its sections and keys: [configuration](configuration.md).")
    elif fields := _fields(kind):
        parts.append("```python\n" + "\n".join(fields) + "\n```")
    for method, value in vars(kind).items():
        function = getattr(value, "__func__", value)
        wanted = inspect.isfunction(function) and (method == "__init__" or not method.startswith("_"))
        if wanted and (function.__doc__ or len(inspect.signature(function).parameters) > 1):
            if method == "__init__" and hasattr(kind, "__dataclass_fields__"):
                continue
            parts.append(f"#### {name}{'' if method == '__init__' else '.' + method}")
            parts += [_signature(function), prose(function.__doc__)]
    return "\n\n".join(part for part in parts if part)


def _definition(value: Any) -> tuple[Any, str]:
    """Its node, and the source that the node's places are in."""
    source = textwrap.dedent(inspect.getsource(value))
    return ast.parse(source).body[0], source


def _signature(function: Any) -> str:
    """As it is in the source, in one line or with a line for each parameter."""
    node, source = _definition(function)
    returns = "" if node.returns is None else f" -> {_text(source, node.returns)}"
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    parameters = _parameters(node.args, source)
    line = f"{start} {node.name}({', '.join(parameters)}){returns}"
    if len(line) > 100:
        inside = ",\n    ".join(parameters)
        line = f"{start} {node.name}(\n    {inside},\n){returns}"
    return f"```python\n{line}\n```"


def _parameters(arguments: ast.arguments, source: str) -> list[str]:
    """Each parameter with its annotation and default, and the star before those by keyword."""
    plain = [*arguments.posonlyargs, *arguments.args]
    none = [None] * (len(plain) - len(arguments.defaults))
    pairs = [*zip(plain, [*none, *arguments.defaults], strict=True)]
    found = [_declared(_text(source, argument), default, source) for argument, default in pairs]
    by_keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    named = [_declared(_text(source, argument), default, source) for argument, default in by_keyword]
    return [*found, "*", *named] if named else found


def _fields(kind: type) -> list[str]:
    """The fields of a dataclass, as in the source."""
    if not hasattr(kind, "__dataclass_fields__"):
        return []
    node, source = _definition(kind)
    declared = [item for item in node.body if isinstance(item, ast.AnnAssign)]
    named = [(_text(source, item.target), item) for item in declared]
    return [
        _declared(f"{name}: {_text(source, item.annotation)}", item.value, source)
        for name, item in named
        if not name.startswith("_")
    ]


def _declared(name: str, default: ast.expr | None, source: str) -> str:
    return name if default is None else f"{name} = {_text(source, default)}"


def _text(source: str, node: ast.AST) -> str:
    return " ".join((ast.get_source_segment(source, node) or "").split())
