"""A file of the changes D of a model's adapted matrices: float32, with a checksum of each.

A safetensors file by the names of the base model's weights. Its metadata come before its matrices, so it is
written matrix by matrix, and the checksums go into their places last: of a large model one matrix at a time
is in memory. See https://huggingface.co/docs/safetensors for the format.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from es_ray.lora.layout import LoraLayout

SUMS: Final = "sha256"
"""The key of the checksums in the metadata: of each matrix's bytes, in the order of the layout's modules."""


class DamagedChanges(Exception):  # noqa: N818 - says what was found, not who failed
    """A file of changes that is torn, edited, or of other matrices; its text begins with the file's name."""


def shapes_of(layout: LoraLayout) -> dict[str, tuple[int, int]]:
    """Name and shape of each adapted weight, [out, in], in the layout's order."""
    return {f"{each.name}.weight": (each.out_features, each.in_features) for each in layout.modules}


class ChangesFile:
    """Reads a file, one matrix at a time. Raises DamagedChanges, on opening if it is of other matrices."""

    def __init__(self, path: Path, layout: LoraLayout) -> None:
        self.path, self._names = path, list(shapes_of(layout))
        try:
            with safe_open(path, framework="numpy") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
                self.metadata: Mapping[str, str] = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise DamagedChanges(f"{path}: torn or edited: {error}") from error
        self._sums = self.metadata.get(SUMS, "").split()
        if found != shapes_of(layout) or len(self._sums) != len(found):
            raise DamagedChanges(f"{path}: not of this model's adapted weights")

    def matrix(self, number: int) -> NDArray[np.float32]:
        """D of the layout's module of that number, shape [out, in]."""
        name = self._names[number]
        try:
            with safe_open(self.path, framework="numpy") as file:
                found: NDArray[np.float32] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise DamagedChanges(f"{self.path}: torn or edited: {error}") from error
        if found.dtype != np.float32 or _sha256(found) != self._sums[number]:
            raise DamagedChanges(f"{self.path}: torn or edited: the checksum of {name} is another")
        return found


def write_changes(
    path: Path, layout: LoraLayout, matrices: Iterable[NDArray[np.float32]], metadata: Mapping[str, str]
) -> None:
    """Write a file of D of each of the layout's modules, in their order; raises OSError."""
    entries, at = {}, 0
    for name, shape in shapes_of(layout).items():
        stop = at + 4 * shape[0] * shape[1]
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    sums = ["0" * 64] * len(entries)
    with path.open("wb") as file:
        file.write(_header(entries, metadata, sums))
        for number, (matrix, entry) in enumerate(zip(matrices, entries.values(), strict=True)):
            assert list(matrix.shape) == entry["shape"]
            whole = np.ascontiguousarray(matrix, dtype="<f4")
            file.write(whole.data)
            sums[number] = _sha256(whole)
        file.seek(0)
        file.write(_header(entries, metadata, sums))


def _header(
    entries: Mapping[str, Mapping[str, object]], metadata: Mapping[str, str], sums: list[str]
) -> bytes:
    """A safetensors header with its length before it, a multiple of 8."""
    about = {"__metadata__": {**metadata, SUMS: " ".join(sums)}}
    text = json.dumps({**about, **entries}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _sha256(matrix: NDArray[np.float32]) -> str:
    return hashlib.sha256(matrix.data).hexdigest()
