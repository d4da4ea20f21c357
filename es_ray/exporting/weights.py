"""The base model's weight files with an adapter added to the matrices that it adapts.

A safetensors file is a length, a header of JSON, and the tensors' bytes; see
https://huggingface.co/docs/safetensors. Each file is copied, and the adapted matrices are changed in place:
all else keeps its bytes, and of the weights one matrix at a time is in memory.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from es_ray.errors import UserError
from es_ray.exporting.changes import WeightChange

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
MOST_HEADER: Final = 100_000_000
"""Bytes of a header, as the format limits them."""
DTYPES: Final = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtypes that can be added to, by their names in a header."""


def weight_files(folder: Path) -> list[Path]:
    """A model's safetensors files; raises UserError for other forms, and for shards that are missing."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [SINGLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"--merged: {folder} has no {missing[0]}; merging needs all of the base model's weights, as "
            "safetensors files"
        )
    return [folder / name for name in names]


def write_merged(files: list[Path], output: Path, changes: Mapping[str, WeightChange]) -> set[str]:
    """Write files of the same names into a folder, in which weights are changed.

    changes: by the name of the module. The sum is computed in float32 and rounded once, to the dtype of W.
    Raises UserError, before it writes, unless the files have each of the weights in the right shape and a
    dtype of DTYPES; OSError. Returns the dtypes of the weights.
    """
    headers = {file: _header(file) for file in files}
    places = _places(headers, changes)
    for file in files:
        shutil.copyfile(file, output / file.name)
        here = {tensor: module for tensor, (where, module) in places.items() if where == file}
        with (output / file.name).open("r+b") as opened:
            data, entries = headers[file]
            for tensor, module in here.items():
                _add(opened, data, entries[tensor], changes[module])
    return {DTYPES[headers[file][1][tensor]["dtype"]] for tensor, (file, _) in places.items()}


def _header(file: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors' bytes begin in a file, and what it says of each tensor."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            if length > MOST_HEADER:
                raise ValueError("too long")
            entries = json.loads(opened.read(length))
            entries.pop("__metadata__", None)
        except (ValueError, AttributeError, TypeError) as error:  # other JSON than an object
            raise UserError(f"--merged: {file} cannot be read: it is no safetensors file, or torn") from error
    return 8 + length, entries


def _places(
    headers: Mapping[Path, tuple[int, dict[str, Any]]], changes: Mapping[str, WeightChange]
) -> dict[str, tuple[Path, str]]:
    """The file and the module of each tensor to change; raises UserError for what cannot be changed."""
    files = {tensor: file for file, (_, entries) in headers.items() for tensor in entries}
    found: dict[str, tuple[Path, str]] = {}
    for module, change in changes.items():
        # files of a model without its head lack the first part of the name
        names = (f"{module}.weight", f"{module.partition('.')[2]}.weight")
        tensor = next((name for name in names if name in files), None)
        if tensor is None:
            raise UserError(
                f"--merged: the base model's files have no {names[0]}, which the adapter changes: its "
                "weights have other names there, or are quantised; export the adapter instead"
            )
        entry = headers[files[tensor]][1][tensor]
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"--merged: {tensor} is of dtype {entry['dtype']}; an adapter can be added to "
                f"{', '.join(DTYPES)} only; export the adapter instead"
            )
        if entry["shape"] != [*change.shape]:
            raise UserError(
                f"--merged: {tensor} has the shape {entry['shape']}, the adapter is for {[*change.shape]}"
            )
        found[tensor] = (files[tensor], module)
    return found


def _add(file: BinaryIO, data: int, entry: Mapping[str, Any], change: WeightChange) -> None:
    """Add a change to one tensor of an open file; data: where the tensors' bytes begin."""
    import torch

    start, stop = entry["data_offsets"]
    file.seek(data + start)
    dtype = getattr(torch, DTYPES[entry["dtype"]])
    weight = torch.frombuffer(bytearray(file.read(stop - start)), dtype=dtype).view(*entry["shape"])
    wide = torch.promote_types(dtype, torch.float32)
    merged = (weight.to(wide) + change.scaling * change.product().to(wide)).to(dtype)
    file.seek(data + start)
    file.write(merged.view(torch.uint8).numpy().tobytes())
