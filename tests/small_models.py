"""Small random models with the bundled tokenizer, as folders that any loader takes."""

import json
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from es_ray.paths import data_dir

VOCABULARY = 768
STOP_IDS = list(range(2, 62))
"""Many of them, so that random rows end at different times."""

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "qwen2": lambda **k: transformers.Qwen2Config(**SHAPE | {"tie_word_embeddings": True} | k),
    "llama": lambda **k: transformers.LlamaConfig(**SHAPE | k),
    "qwen3": lambda **k: transformers.Qwen3Config(**SHAPE | {"head_dim": 16} | k),
    "mistral": lambda **k: transformers.MistralConfig(**SHAPE | {"sliding_window": None} | k),
    "mistral-window": lambda **k: transformers.MistralConfig(**SHAPE | {"sliding_window": 8} | k),
}
OTHERS = {
    "gemma2": lambda: transformers.Gemma2Config(**SHAPE | {"head_dim": 8, "sliding_window": 8}),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SHAPE),
    "phi3": lambda: transformers.Phi3Config(**SHAPE),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=2
    ),
    "opt": lambda: transformers.OPTConfig(**SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
}
"""Two kinds of attention, fused projections, learnt positions, layers that are given [rows x tokens, in]."""


def build(folder: Path, config: PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a random model whose greedy answers vary, and the bundled tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:  # norms and biases
                parameter.copy_(parameter + 0.2 * noise)
            else:
                parameter.copy_(0.25 * noise)
    model.generation_config = GenerationConfig(eos_token_id=STOP_IDS, pad_token_id=0)
    model.to(dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(data_dir() / "tiny_chat" / name, folder / name)
    return folder


def small_model(folder: Path, architecture: str = "qwen2", **changes) -> Path:
    """`build` with one of CONFIGS or OTHERS; changes go into the configuration."""
    seed, dtype = changes.pop("seed", 0), changes.pop("dtype", torch.float32)
    return build(folder, (CONFIGS | OTHERS)[architecture](**changes), seed, dtype)


def edit_json(file: Path, **values: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
