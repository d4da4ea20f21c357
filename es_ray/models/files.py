"""A model's files on disk: which there are, whether one is torn, and digests of the weights."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Forms of weight files: those of the first that there are; optimizers' and trainers' files are none."""
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
"""Files of which a tokenizer has at least one; the doctor's list, sent to nodes without this, is equal."""
DESCRIPTIONS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors.index.json",
)  # fmt: skip
"""A model's files of JSON."""
FULL_DIGEST = 64 << 20
BLOCK = 1 << 16
BLOCKS = 64


def weight_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file by name, of samples if it is large; empty if there are none.

    Of complete files up to FULL_DIGEST bytes; else of the size, the first block (a safetensors file's
    header) and evenly spaced blocks: two finetunes of one model differ in nearly all of them.
    """
    for form in WEIGHTS:
        files = [file for file in sorted(folder.glob(form)) if file.is_file()]
        if files:
            return {file.name: _digest(file) for file in files}
    return {}


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has a tokenizer's files."""
    return any(file.is_file() for form in VOCABULARIES for file in folder.glob(form))


def torn_file(folder: Path) -> Path | None:
    """The first of a model's files that is torn; None if all can be read."""
    files = [*(folder / name for name in DESCRIPTIONS), *sorted(folder.glob("*.safetensors"))]
    return next((file for file in files if is_torn(file)), None)


def is_torn(file: Path) -> bool:
    """Whether a file is there, and holds no JSON object, or not the tensors that it lists."""
    if not file.is_file():
        return False
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "np"):
                return False
        return not isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, SafetensorError):
        return True


def _digest(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with file.open("rb") as opened:
        if size <= FULL_DIGEST:
            digest.update(opened.read())
        else:
            for number in range(BLOCKS):
                opened.seek((size - BLOCK) * number // (BLOCKS - 1))
                digest.update(opened.read(BLOCK))
    return digest.hexdigest()
