"""What the `forward` of a module of SGLang's does with its values, read from its source.

es-ray leaves products of adapters to a later kernel where nothing reads the values in between. These checks
are strict: what they do not know is answered with no, and the products are added right away.
"""

import ast
import textwrap
from typing import Final

_LAYER: Final = ["input_layernorm", "input_layernorm", "self_attn", "post_attention_layernorm", "mlp"]
_PASSING: Final = (ast.Assign, ast.Return, ast.If, ast.Call, ast.keyword, ast.Name, ast.Tuple, ast.Constant,
                   ast.Attribute, ast.Compare, ast.Is, ast.IsNot, ast.expr_context)  # fmt: skip


def passes_to_activation(forward: str) -> bool:
    """Whether an MLP passes the output of gate_up_proj to act_fn, and uses it nowhere else.

    forward: the source of that method. 0.5.23 passes both to another method, which calls act_fn unless the
    model is quantised.
    """
    nodes = list(ast.walk(ast.parse(textwrap.dedent(forward))))
    given = [node for node in nodes if isinstance(node, ast.Assign) and _calls(node.value, "gate_up_proj")]
    if len(given) != 1 or not isinstance(given[0].targets[0], ast.Tuple):
        return False
    output = given[0].targets[0].elts[0]  # the other is a bias
    if not isinstance(output, ast.Name):
        return False
    uses = [node for node in nodes if isinstance(node, ast.Name) and node.id == output.id]
    passed = [
        node.args[0]
        for node in nodes
        if isinstance(node, ast.Call)
        and node.args
        and (_calls(node, "act_fn") or any(_is_own(argument, "act_fn") for argument in node.args[1:]))
    ]
    return bool(passed) and all(use is output or any(use is item for item in passed) for use in uses)


def returns_output(forward: str, name: str) -> bool:
    """Whether a module returns the output of its projection `name` as it is."""
    body = _body(forward)
    if len(body) < 2 or not isinstance(body[-1], ast.Return):
        return False
    projected, returned = body[-2], body[-1].value
    if not isinstance(projected, ast.Assign) or not _calls(projected.value, name):
        return False
    target = projected.targets[0]  # the other of two is a bias
    first = target.elts[0] if isinstance(target, ast.Tuple) else target
    return isinstance(first, ast.Name) and isinstance(returned, ast.Name) and first.id == returned.id


def hands_activation_on(forward: str) -> bool:
    """Whether an MLP gives what act_fn returned to down_proj as it is, and returns the output of that."""
    body = _body(forward)
    if len(body) < 3 or not returns_output(forward, "down_proj"):
        return False
    activated, projected = body[-3], body[-2]
    assert isinstance(projected, ast.Assign) and isinstance(projected.value, ast.Call)
    return (
        isinstance(activated, ast.Assign)
        and _calls(activated.value, "act_fn")
        and getattr(activated.targets[0], "id", None) == _first_argument(projected.value)
    )


def norms_what_it_is_given(forward: str) -> bool:
    """Whether a decoder layer only passes values from norm to attention to norm to MLP.

    Its first norm gets what the layer is given, each norm the residual too, and what the MLP returns is
    returned beside the residual.
    """
    body = _body(forward)
    nodes = [node for statement in body for node in ast.walk(statement)]
    if not all(isinstance(node, _PASSING) for node in nodes):
        return False
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    if [ast.unparse(call.func) for call in calls] != [f"self.{name}" for name in _LAYER]:
        return False
    returned = body[-1].value if isinstance(body[-1], ast.Return) else None
    if not isinstance(returned, ast.Tuple) or len(returned.elts) != 2:
        return False
    pair = [getattr(item, "id", "") for item in returned.elts]
    first, again, attention, after, mlp = calls
    norms = [[getattr(argument, "id", "") for argument in call.args] for call in (first, again, after)]
    into_attention = [getattr(keyword.value, "id", "") for keyword in attention.keywords]
    return norms == [pair[:1], pair, pair] and pair[0] in into_attention and _first_argument(mlp) == pair[0]


def hands_layers_on(forward: str) -> bool:
    """Whether a model gives what a layer returned to the next one, and to the final norm, as it is.

    It may look at it in between where it is asked to (`layers_to_capture`).
    """
    loops = [node for node in ast.walk(ast.parse(textwrap.dedent(forward))) if isinstance(node, ast.For)]
    if len(loops) != 1:
        return False
    last = loops[0].body[-1]
    if not isinstance(last, ast.Assign) or not isinstance(last.value, ast.Call):
        return False
    pair = _names(last.targets[0])
    given = [getattr(argument, "id", "") for argument in last.value.args]
    if len(pair) != 2 or not set(pair) <= set(given):
        return False
    before = loops[0].body[:-1]
    captured = [
        node for node in before if isinstance(node, ast.If) and "layers_to_capture" in ast.unparse(node.test)
    ]
    others = [node for node in before if node not in captured]
    if any(name in pair for node in others for name in _names(node)):
        return False
    return any(
        isinstance(node, ast.Call)
        and _calls(node, "norm")
        and [getattr(argument, "id", "") for argument in node.args] == pair
        for node in ast.walk(ast.parse(textwrap.dedent(forward)))
    )


def _body(forward: str) -> list[ast.stmt]:
    """The statements of a method, without its docstring."""
    function = ast.parse(textwrap.dedent(forward)).body[0]
    assert isinstance(function, ast.FunctionDef)
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.body[1:] if documented else function.body


def _names(node: ast.AST) -> list[str]:
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]


def _first_argument(call: ast.Call) -> str:
    return getattr(call.args[0], "id", "") if call.args else ""


def _calls(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and _is_own(node.func, name)


def _is_own(node: ast.expr, name: str) -> bool:
    """Whether the node is self.name."""
    return isinstance(node, ast.Attribute) and node.attr == name and getattr(node.value, "id", "") == "self"
