"""The reference: plain transformers and PEFT, one adapter, one prompt and no batch at a time."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def base_model(path: str | Path, dtype: Any = "auto") -> Any:
    """The base model, with no generation settings of its own."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def adapted_model(adapter: Path, dtype: Any = "auto") -> Any:
    """The base model that the adapter itself names, with the adapter."""
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(base_model(base, dtype), adapter).eval()


@torch.inference_mode()
def greedy(model: Any, prompt_ids: list[int], stop_ids: list[int], max_new_tokens: int) -> list[int]:
    """Greedy continuation of one prompt, the stop token included."""
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_ids,
        pad_token_id=0,
        repetition_penalty=1.0,
    )
    ids = torch.tensor([prompt_ids])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return out[0, len(prompt_ids) :].tolist()


@torch.inference_mode()
def logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    """Logits after each token, in one pass without a cache: shape [tokens, vocabulary]."""
    return model(input_ids=torch.tensor([token_ids])).logits[0].float()


def answer(model: Any, tokenizer: Any, question: str, max_new_tokens: int, stop_ids: list[int]) -> str:
    """The text of a chat answer to one user message."""
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(greedy(model, ids, stop_ids, max_new_tokens), skip_special_tokens=True).strip()


def tokenizer_of(path: str | Path) -> Any:
    """The tokenizer of a model's folder."""
    return AutoTokenizer.from_pretrained(path)
