"""Weights that an adapter cannot be added to: refused, with the file or the matrix that is wrong."""

import json

import pytest
import torch
from safetensors.torch import save_file

from es_ray.errors import UserError
from es_ray.exporting.changes import WeightChange
from es_ray.exporting.weights import MOST_HEADER, write_merged

NAME = "model.layers.0.mlp.up_proj"


def change(*shape: int) -> dict[str, WeightChange]:
    return {NAME: WeightChange(shape, lambda: torch.ones(shape), 0.5)}


@pytest.mark.parametrize(
    "header", [b"{", json.dumps([NAME]).encode(), b"\xff\xfe", None], ids=["cut", "a list", "no text", "long"]
)
def test_a_file_that_is_none_of_safetensors_is_named(tmp_path, header):
    file = tmp_path / "model.safetensors"
    length = MOST_HEADER + 1 if header is None else len(header)
    file.write_bytes(length.to_bytes(8, "little") + (header or b""))
    (tmp_path / "out").mkdir()
    with pytest.raises(
        UserError, match=f"^--merged: {file} cannot be read: it is no safetensors file, or torn"
    ):
        write_merged([file], tmp_path / "out", change(4, 6))
    assert not list((tmp_path / "out").iterdir())


def test_a_matrix_of_another_shape_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({f"{NAME}.weight": torch.zeros(4, 6)}, file)
    (tmp_path / "out").mkdir()
    said = rf"{NAME}\.weight has the shape \[4, 6\], the adapter is for \[6, 4\]"
    with pytest.raises(UserError, match=said):
        write_merged([file], tmp_path / "out", change(6, 4))
    assert not list((tmp_path / "out").iterdir())
    write_merged([file], tmp_path / "out", change(4, 6))
    assert list((tmp_path / "out").iterdir())
