"""Whether a machine has a complete model. Sent to nodes with probe.py, so it uses only the standard library.

Nothing is loaded: what headers and indices list is compared with the files.
"""

import contextlib
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

WEIGHTS = ("*.safetensors", "*.bin")
VOCABULARIES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
"""Files of which a tokenizer has at least one."""
DESCRIPTIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files of JSON that are read before the weights are."""
NO_FOLDER = "no such folder"
"""The problem of a model whose folder is missing."""
INDEX = "model.safetensors.index.json"
HEADER_SIZE = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""
HUB_SECONDS = 5


def model(kind: str, path: str, revision: str | None) -> dict[str, Any]:
    """Where this node has the model: {found: folder | cache | hub | None, path, size, hash, problem}.

    size: bytes of its weights; hash: of its config.json. Both None if it would have to be downloaded.
    """
    if kind == "hub":
        return _hub_model(path, revision)
    if kind == "bundled":
        root = package_folder("es_ray")
        if root is None:
            return _missing(path, "it comes with es-ray, which is not installed")
        data = root / "_data" if (root / "_data").is_dir() else root.parent / "data"
        path = str(data / "tiny_chat")
    return _folder_model(Path(path), "folder")


def package_folder(name: str) -> Path | None:
    """The folder of a package that this process could import; imports nothing."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def file_hash(file: Path) -> str | None:
    """A hash of a file's bytes; None if there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return None


def examples_problem(file: Path) -> str | None:
    """Why a path cannot be a file of examples; None if it may be one."""
    if file.is_dir():
        return "is a folder"
    return None if file.exists() else "no such file"


def _folder_model(folder: Path, found: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        return _missing(str(folder), NO_FOLDER if not folder.is_dir() else "it has no config.json")
    if not any(file.is_file() for form in VOCABULARIES for file in folder.glob(form)):
        return _missing(str(folder), "it has no tokenizer (tokenizer.json, or another vocabulary)")
    torn = _torn(folder)
    if torn is not None:
        return _missing(str(folder), torn)
    weights = _weights(folder)
    problem = _incomplete(folder, weights) or _damaged(folder, weights)
    size, sha = sum(weights.values()), file_hash(folder / "config.json")
    return {"found": found, "path": str(folder), "size": size, "hash": sha, "problem": problem}


def _torn(folder: Path) -> str | None:
    """A description that cannot be read."""
    for name in DESCRIPTIONS:
        file = folder / name
        if file.is_file() and _json_object(file) is None:
            return f"{name} is empty, cut short, or no JSON object"
    return None


def _json_object(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _weights(folder: Path) -> dict[str, int]:
    """Files of weights and their sizes."""
    files = [file for form in WEIGHTS for file in folder.glob(form) if file.is_file()]
    return {file.name: file.stat().st_size for file in files}


def _incomplete(folder: Path, weights: dict[str, int]) -> str | None:
    """Missing weights: a download may have been cut short between two files."""
    if not weights:
        return f"it has no weights ({' or '.join(WEIGHTS)})"
    try:
        lost = sorted(_shards(folder) - set(weights))
    except ValueError:
        return f"{INDEX} cannot be read"
    return f"{', '.join(lost)[:100]} is missing" if lost else None


def _shards(folder: Path) -> set[str]:
    """The files of weights in several parts; none for those in one part."""
    index = folder / INDEX
    if not index.is_file():
        return set()
    return set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())


def _damaged(folder: Path, weights: dict[str, int]) -> str | None:
    """Safetensors files whose size differs from their header."""
    for name, size in sorted(weights.items()):
        if not name.endswith(".safetensors"):
            continue
        wanted = _size_by_header(folder / name, size)
        if wanted is None:
            return f"{name} is cut short, or no safetensors file: its header cannot be read"
        if wanted != size:
            return (
                f"{name} is {'cut short' if size < wanted else 'damaged'}: {size} bytes instead of {wanted}"
            )
    return None


def _size_by_header(file: Path, size: int) -> int | None:
    """The bytes that a safetensors file should have, None if its header is incomplete.

    The format: the header's length, 8 bytes; the header, JSON of tensors with their data_offsets; the data.
    """
    with file.open("rb") as content:
        length = int.from_bytes(content.read(HEADER_SIZE), "little")
        if HEADER_SIZE + length > size:
            return None
        header = content.read(length)
    try:
        tensors = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
        return HEADER_SIZE + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _missing(path: str, problem: str) -> dict[str, Any]:
    return {"found": None, "path": path, "size": None, "hash": None, "problem": problem}


def _hub_model(name: str, revision: str | None) -> dict[str, Any]:
    if importlib.util.find_spec("huggingface_hub") is None:
        return _missing(name, "huggingface_hub is not installed")
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        folder = Path(cached).parent
        here = _folder_model(folder, "cache")
        # missing files can be downloaded; present ones are not downloaded again, even if damaged
        if here["problem"] is None or _torn(folder) or _damaged(folder, _weights(folder)):
            return here | {"found": "cache"}
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=HUB_SECONDS)
    except Exception as error:  # of any HTTP library that the hub's client uses: it can't be downloaded
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return _missing(name, f"not in the cache, and the hub does not give it: {said[:200]}")
    return {"found": "hub", "path": name, "size": None, "hash": None, "problem": None}
