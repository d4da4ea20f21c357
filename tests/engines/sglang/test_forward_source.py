"""What modules do with their values, by the sources of real versions of SGLang, and by made ones."""

import ast
from pathlib import Path

import pytest

from es_ray.engines.sglang import compat, forward_source


def class_of(root: Path, file: str, name: str) -> str:
    text = (root / "srt/models" / file).read_text()
    found = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == name)
    return ast.get_source_segment(text, found) or ""


def forward_of(root: Path, file: str, name: str) -> str:
    text = class_of(root, file, name)
    methods = ast.parse(text).body[0].body
    forward = next(n for n in methods if isinstance(n, ast.FunctionDef) and n.name == "forward")
    return ast.get_source_segment(text, forward) or ""


@pytest.mark.parametrize(
    ("file", "name", "fine"),
    [("qwen2.py", "Qwen2MLP", True), ("llama.py", "LlamaMLP", True), ("falcon_h1.py", "FalconH1MLP", False)],
)
def test_which_real_mlps_pass_gate_and_up_only_to_the_activation(root, file, name, fine):
    assert forward_source.passes_to_activation(forward_of(root, file, name)) == fine
    assert "self.act_fn = SiluAndMul()" in class_of(root, file, name)


def test_qwen3_has_the_mlp_of_qwen2(root):
    assert "Qwen2MLP as Qwen3MLP" in (root / "srt/models/qwen3.py").read_text()


@pytest.mark.parametrize(
    "body",
    [
        "y = self.gate_up_proj(x); return self.act_fn(y)",
        "x, _ = self.gate_up_proj(x); return self.act_fn(x)",
        "y, _ = self.gate_up_proj(x); y *= 2; return self.act_fn(y)",
        "y, _ = self.gate_up_proj(x); y[:, :4] *= 2; return self.act_fn(y)",
        "y, _ = self.gate_up_proj(x); return self.act_fn(y * 2)",
        "y, _ = self.gate_up_proj(x); return self.act_fn(y) + y",
        "y, _ = self.gate_up_proj(x); return other(y)",
        "y, _ = self.gate_up_proj(x); z, _ = self.gate_up_proj(y); return self.act_fn(z)",
    ],
)
def test_an_mlp_that_does_more_with_gate_and_up_is_detected(body):
    assert not forward_source.passes_to_activation(f"    def forward(self, x):\n        {body}")


def is_0_5_17(root: Path) -> bool:
    return compat.version(root) == "0.5.17"


@pytest.mark.parametrize(("file", "name"), [("qwen2.py", "Qwen2"), ("llama.py", "Llama")])
def test_in_which_real_models_a_norm_follows_o_and_down(root, file, name):
    assert forward_source.returns_output(forward_of(root, file, f"{name}MLP"), "down_proj")
    assert forward_source.returns_output(forward_of(root, file, f"{name}Attention"), "o_proj")
    # 0.5.23 calls norms in objects of their own
    layer, stack = forward_of(root, file, f"{name}DecoderLayer"), forward_of(root, file, f"{name}Model")
    assert forward_source.norms_what_it_is_given(layer) == is_0_5_17(root)
    assert forward_source.hands_layers_on(stack) == is_0_5_17(root)
    if is_0_5_17(root):
        assert forward_source.hands_activation_on(forward_of(root, file, f"{name}MLP"))


@pytest.mark.parametrize(("file", "name"), [("granite.py", "Granite"), ("glm4.py", "Glm4")])
def test_layers_that_scale_or_norm_once_more_are_detected(root, file, name):
    assert not forward_source.norms_what_it_is_given(forward_of(root, file, f"{name}DecoderLayer"))


def method(body: str, parameters: str = "x") -> str:
    return f"    def forward(self, {parameters}):\n" + "".join(
        f"        {line}\n" for line in body.splitlines()
    )


MLP = "y, _ = self.gate_up_proj(x)\nx = self.act_fn(y)\nx, _ = self.down_proj(x, b=x)\nreturn x"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x", "return x * 2"),
        ("return x", "return x + y"),
        ("return x", "return (x, y)"),
        ("return x", "return y"),
        ("return x", "x = x\nreturn x"),
        ("x, _ = self.down", "x, _ = self.up"),
        ("x, _ = self.down", "x = 2 * self.down"),
        ("x, _ = self.down", "x, _ = down"),
    ],
)
def test_an_output_that_is_changed_is_detected(old, new):
    assert forward_source.returns_output(method(MLP), "down_proj")
    assert not forward_source.returns_output(method(MLP.replace(old, new)), "down_proj")
    assert not forward_source.hands_activation_on(method(MLP.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("_proj(x, b=x)", "_proj(y)"), ("self.act_fn(y)", "self.act_fn(y) * 2"), ("\nx, _", "\nx *= 2\nx, _")],
)
def test_an_activation_that_is_changed_is_detected(old, new):
    assert forward_source.hands_activation_on(method(MLP))
    assert not forward_source.hands_activation_on(method(MLP.replace(old, new)))


LAYER = """\
if r is None:
    r = h
    h = self.input_layernorm(h)
else:
    h, r = self.input_layernorm(h, r)
h = self.self_attn(positions=p, hidden_states=h)
h, r = self.post_attention_layernorm(h, r)
h = self.mlp(h)
return h, r"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("h = self.mlp(h)", "h = self.mlp(h) * 2"),
        ("h = self.mlp(h)", "h = self.mlp(r)"),
        ("h = self.mlp(h)", "h = self.mlp(h)\nh *= 2"),
        ("h = self.mlp(h)", "h = self.mlp(h)\nh = self.mlp(h)"),
        ("h, r = self.post", "h = self.again(h)\nh, r = self.post"),
        ("h, r = self.post", "h = again(h)\nh, r = self.post"),
        ("layernorm(h, r)\nh = self.mlp", "layernorm(r, h)\nh = self.mlp"),
        ("hidden_states=h", "hidden_states=r"),
        ("return h, r", "return r, h"),
        ("return h, r", "return h"),
        ("r = h\n", "r = h * 2\n"),
    ],
)
def test_a_layer_that_does_more_is_detected(old, new):
    assert forward_source.norms_what_it_is_given(method(LAYER, "h, r, p"))
    assert LAYER.replace(old, new) != LAYER
    assert not forward_source.norms_what_it_is_given(method(LAYER.replace(old, new), "h, r, p"))


STACK = """\
captured = []
for i in range(self.start, self.end):
    if i in self.layers_to_capture:
        captured.append(h + r)
    layer = self.layers[i]
    h, r = layer(p, h, r)
h, _ = self.norm(h, r)
return h"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    layer = ", "    h = h * 2\n    layer = "),
        ("layer(p, h, r)", "layer(p, h, 2 * r)"),
        ("h, r = layer", "h = layer"),
        ("self.norm(h, r)", "self.norm(h + r)"),
        ("if i in self.layers_to_capture", "if i in self.others"),
    ],
)
def test_a_model_that_does_more_between_layers_is_detected(old, new):
    assert forward_source.hands_layers_on(method(STACK, "h, r, p"))
    assert STACK.replace(old, new) != STACK
    assert not forward_source.hands_layers_on(method(STACK.replace(old, new), "h, r, p"))
