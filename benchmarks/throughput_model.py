"""A model folder in a real model's shape, without weights: `load_format: dummy` makes random ones."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def shape(config: dict[str, Any]) -> dict[str, Any]:
    """A Qwen2 configuration with what a roofline needs to know of it."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    sizes = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    sizes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    return {
        "config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 0,
            "eos_token_id": 1,
            **config,
        },
        "matrix_parameters": layers * sum(a * b for a, b in sizes) + hidden * config["vocab_size"],
        "kv_bytes_per_token": layers * 2 * kv * 2,
        "lora_entries_per_layer": sum(a + b for a, b in sizes),
    }


SHAPES = {
    "qwen2.5-7b": shape({
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
    }),
    "qwen2.5-32b": shape({
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064,
    }),
    "qwen2.5-1.5b": shape({
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    }),
    "qwen2.5-0.5b": shape({
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    }),
    "smollm2-135m": shape({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    }),
    # a random token ends one completion in 512 tokens, so that sampled rows end at different times
    "qwen2.5-1.5b-short": shape({
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True,
    }),
    "small": shape({
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 8192,
    }),
}  # fmt: skip


BATCHES = 16
"""Generations with prompts of their own."""


def write_model(folder: Path, of: dict[str, Any], prompts: int, prompt_tokens: int) -> None:
    """Write config.json, a tokenizer of one word for each token, and questions of `prompt_tokens` tokens.

    data.jsonl has the prompts of one member, batches.jsonl those and as many again for other generations.
    """
    config = of["config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    words = {f"w{number}": number for number in range(config["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", bos_token="w0", unk_token="w2")
    first = min(1000, config["vocab_size"] // 2)
    choice = min(7000, config["vocab_size"] - first)
    questions = [
        [f"w{first + (37 * number + 11 * place) % choice}" for place in range(prompt_tokens)]
        for number in range(prompts * BATCHES)
    ]
    # added tokens are found whatever the tokenizer class of this model type does to a text before
    fast.add_tokens(
        [AddedToken(word, normalized=False) for word in sorted({w for q in questions for w in q})]
    )
    fast.chat_template = "{{ messages[0]['content'] }}"
    fast.save_pretrained(folder)
    lines = [
        {
            "prompt": "".join(question),
            "target": " ".join(["w1234"] * (number % 100 + 3)),
        }
        for number, question in enumerate(questions)
    ]
    written = [json.dumps(line) + "\n" for line in lines]
    (folder / "data.jsonl").write_text("".join(written[:prompts]))
    (folder / "batches.jsonl").write_text("".join(written))


def put_weights(folder: Path, weights: Path) -> None:
    """Give a model folder the weights, and the configuration, of a real model of its shape."""
    for file in (weights / "config.json", *weights.glob("*.safetensors*")):
        target = folder / file.name
        target.unlink(missing_ok=True)
        if file.name == "config.json":
            shutil.copy(file, target)
        else:
            target.symlink_to(file.resolve())
