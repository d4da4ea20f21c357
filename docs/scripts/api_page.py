"""docs/reference/python.md: what `es_ray.__all__` names, with signatures and docstrings."""

import ast
import inspect
import textwrap
from typing import Any

from page_text import page, prose
from pydantic import BaseModel

import es_ray

INTRODUCTION = """\
These names stay as they are within a major version. Everything else may change, including the base classes of update
rules and engines. [How to write a reward](../how-to/own-reward.md), and a callback:
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


def _definition(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _signature(function: Any) -> str:
    """As it is in the source, in one line or with a line for each parameter."""
    node = _definition(function)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    line = f"{start} {node.name}({ast.unparse(node.args)}){returns}"
    if len(line) > 100:
        inside = ",\n    ".join(_parameters(node.args))
        line = f"{start} {node.name}(\n    {inside},\n){returns}"
    return f"```python\n{line}\n```"


def _parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter with its annotation and default, and the star before those by keyword."""
    plain = [*arguments.posonlyargs, *arguments.args]
    none = [None] * (len(plain) - len(arguments.defaults))
    found = [_parameter(a, d) for a, d in zip(plain, [*none, *arguments.defaults], strict=True)]
    if arguments.kwonlyargs:
        found.append("*")
    found += [_parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return found


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def _fields(kind: type) -> list[str]:
    """The fields of a dataclass, as in the source."""
    if not hasattr(kind, "__dataclass_fields__"):
        return []
    nodes = [node for node in _definition(kind).body if isinstance(node, ast.AnnAssign)]
    names = [(node, ast.unparse(node.target)) for node in nodes]
    return [
        f"{name}: {ast.unparse(node.annotation)}{'' if node.value is None else f' = {ast.unparse(node.value)}'}"
        for node, name in names
        if not name.startswith("_")
    ]
