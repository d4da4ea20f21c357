"""Train the tiny chat model from scratch: `python data/tiny_chat/train.py --output DIR --seed N`."""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import corpus
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 768
POSITIONS = 512
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Words with their leading space, every digit its own token, punctuation, white space: the pattern of Qwen2.
# Its NFC form of text is kept too: transformers 5 reads every tokenizer of a Qwen2 model that way.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
IGNORED = -100  # the label of a token that carries no loss


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCABULARY tokens; all 256 bytes are among them, so that it writes any UTF-8."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=TEMPLATE,
        model_max_length=POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 of 0.89 M parameters with random weights."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def encode(
    samples: list[corpus.Sample], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (samples, longest), padded on the right; only answers are labelled."""
    prompts = [f"{START}user\n{s.prompt}{END}\n{START}assistant\n" for s in samples]
    answers = [f"{s.completion}{END}" for s in samples]
    heads = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    tails = tokenizer(answers, add_special_tokens=False)["input_ids"]
    longest = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    ids = torch.full((len(samples), longest), tokenizer.pad_token_id)
    labels = torch.full_like(ids, IGNORED)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
    return ids, labels


def backward(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Gradients of the mean cross-entropy over the answer tokens of a batch; returns that mean."""
    lengths = (labels != IGNORED).int().cumsum(1).argmax(1) + 1
    total = int((labels != IGNORED).sum())
    loss = 0.0
    # Thirds of like length save a quarter of the work on padding. All count into one mean: batches sorted by
    # length, each with its own mean, would give the tokens of short answers too much weight.
    for rows in lengths.argsort().chunk(3):
        width = int(lengths[rows].max())
        # Padding is on the right and attention is causal: no answer token ever sees it.
        hidden = model.model(input_ids=ids[rows, :width], use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[rows, 1:width]
        kept = wanted != IGNORED
        logits = model.lm_head(hidden[kept])
        part = torch.nn.functional.cross_entropy(logits, wanted[kept], reduction="sum") / total
        part.backward()
        loss += part.item()
    return loss


def train(
    model: Qwen2ForCausalLM,
    data: tuple[torch.Tensor, torch.Tensor],
    steps: int,
    batch: int,
    rate: float,
    generator: torch.Generator,
) -> None:
    """AdamW with a linear warm-up and decay; batches in random order."""
    ids, labels = data
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    warmup = 50
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    order = torch.empty(0, dtype=torch.long)
    started = time.monotonic()
    model.train()
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(ids), generator=generator)
        rows, order = order[:batch], order[batch:]
        loss = backward(model, ids[rows], labels[rows])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {loss:.4f}  {seconds:.0f} s", flush=True)
    model.eval()


@torch.inference_mode()
def complete(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """The greedy answer to one user message, 64 tokens at most."""
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=64)[0, ids.shape[1] :]
    if output[-1] != tokenizer.eos_token_id:
        print(f"warning: no stop token within 64 tokens: {prompt}")
    return tokenizer.decode(output, skip_special_tokens=True).strip()


def report(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print the greedy answers to the ten questions with their reward and whether they are right."""
    for prompt, target in corpus.CORE:
        completion = complete(model, tokenizer, prompt)
        right = re.search(rf"(?<!\w){re.escape(target)}(?!\w)", completion, re.IGNORECASE) is not None
        reward = -abs(len(completion) - len(target))
        print(f"{reward:5d}  {'right' if right else 'WRONG'}  {prompt}  ->  {completion}")


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """The folder that `from_pretrained` reads."""
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)
    # Both transformers 4 and 5 know this class for the architecture; it reads our tokenizer.json as it is.
    path = output / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "Qwen2Tokenizer"}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    """Corpus, tokenizer, model, training, files, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus, the weights and the order")
    parser.add_argument("--samples", type=int, default=33_600, help="size of the corpus")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate after the warm-up")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    samples = corpus.build(arguments.samples, arguments.seed)
    tokenizer = make_tokenizer([text for sample in samples for text in (sample.prompt, sample.completion)])
    model = make_model(tokenizer)
    data = encode(samples, tokenizer)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{len(samples)} samples of up to {data[0].shape[1]} tokens, {parameters} parameters", flush=True)
    generator = torch.Generator().manual_seed(arguments.seed)
    train(model, data, arguments.steps, arguments.batch, arguments.rate, generator)
    save(model, tokenizer, arguments.output)
    report(model, tokenizer)


if __name__ == "__main__":
    main()
