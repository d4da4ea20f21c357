"""What a Python file defines, read from its source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path


def field_names(file: Path, owner: str) -> set[str]:
    """The annotated fields of a class; none without such a file or class."""
    return {
        item.target.id
        for node in _body(file)
        if isinstance(node, ast.ClassDef) and node.name == owner
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def defined_names(file: Path, owner: str) -> set[str]:
    """What a module defines or imports from others, or what a class defines.

    Of a class: methods, attributes, and what is assigned to `self`.
    """
    if not owner:
        return {name for node in _body(file) for name in _defined(node)}
    names: set[str] = set()
    for node in _body(file):
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for item in node.body:
                names.update(_defined(item))
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    names.add(inner.attr)
    return names


def parameter_names(file: Path, owner: str, function: str) -> set[str]:
    """The names of a function's parameters, or a method's."""
    body = _body(file)
    if owner:
        body = [
            item
            for node in body
            if isinstance(node, ast.ClassDef) and node.name == owner
            for item in node.body
        ]
    return {
        argument.arg
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    }


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.ImportFrom):
        yield from (name.asname or name.name for name in node.names)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _body(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []
