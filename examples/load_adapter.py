"""An evolved adapter in plain transformers and PEFT; es-ray is not needed, nor imported.

    es-ray export RUN_DIR --output adapter
    python examples/load_adapter.py adapter "What is the capital of France?"

The adapter names the model that it belongs to; --base names another place of the same model, for an adapter
that comes from elsewhere. Answers are greedy, as in a run with `task.temperature` 0, to the question alone,
without a system prompt.
"""

import argparse

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Print the answer of the base model, and that with the adapter."""
    parser = argparse.ArgumentParser(description="Ask a base model, and the same with an adapter.")
    parser.add_argument("adapter", help="folder with adapter_config.json")
    parser.add_argument("question")
    parser.add_argument("--base", help="the base model: a folder, or a name on the hub")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    given = parser.parse_args()

    base = given.base or PeftConfig.from_pretrained(given.adapter).base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model = PeftModel.from_pretrained(model, given.adapter).eval()
    chat = [{"role": "user", "content": given.question}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")

    def answer() -> str:
        with torch.inference_mode():
            tokens = model.generate(**prompt, max_new_tokens=given.max_new_tokens, do_sample=False)
        return tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    with model.disable_adapter():
        print(f"base model:   {answer()}")
    print(f"with adapter: {answer()}")


if __name__ == "__main__":
    main()
