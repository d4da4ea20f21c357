"""Checkpoints of merged runs: what a file says, which one fits a history, and what is wrong with others."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.lora.changes_file import DamagedChanges, write_changes
from es_ray.lora.checkpoints import CHANGES, Checkpoint, Checkpoints, description
from es_ray.lora.layout import AdaptedModule, LoraLayout

MODULES = (AdaptedModule("model.layers.0.q", 0, 12, 20), AdaptedModule("model.layers.1.q", 1, 30, 9))
LAYOUT = LoraLayout(2, 2.0, MODULES, "merged")
HISTORY = np.random.default_rng(0).normal(size=(9, 5))
NOISE = Perturbation(Noise(2**64 - 1, True), PiecewiseConstant((LAYOUT.size,), (0.1,)), fresh=True)


def matrices(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(number)
    return [rng.normal(size=(m.out_features, m.in_features)).astype(np.float32) for m in MODULES]


def write(folder: Path, number: int, history=HISTORY, noise=NOISE, layout=LAYOUT) -> Path:
    """A checkpoint after so many updates in the folder of a generation."""
    path = folder / f"{number:04d}" / CHANGES
    path.parent.mkdir()
    write_changes(path, layout, matrices(number), description(history[:number], noise, layout))
    return path


def before(folder: Path, history=HISTORY, layout=LAYOUT) -> list[int]:
    return [each.updates for each in Checkpoints(folder, layout).before(history, NOISE)]


def test_a_file_has_the_matrices_by_the_names_of_the_weights(tmp_path):
    path = write(tmp_path, 4)
    plain = load_file(path)
    assert list(plain) == ["model.layers.0.q.weight", "model.layers.1.q.weight"]
    checkpoint = Checkpoint(path, LAYOUT)
    assert checkpoint.updates == 4
    for number, (one, wanted) in enumerate(zip(plain.values(), matrices(4), strict=True)):
        assert one.tobytes() == checkpoint.matrix(number).tobytes() == wanted.tobytes()


def test_those_that_a_history_begins_with_are_found_the_latest_first(tmp_path, caplog):
    for number in (2, 10**4, 6, 4):  # the second of a centre that was reached later
        write(tmp_path, number, np.concatenate([HISTORY, HISTORY]))
    other = np.concatenate([HISTORY[:6], HISTORY[:2]])  # after a rollback to generation 5
    assert before(tmp_path) == [6, 4, 2]
    assert before(tmp_path, other) == [6, 4, 2]
    assert before(tmp_path, HISTORY[:5]) == [4, 2]
    assert before(tmp_path, HISTORY[::-1]) == before(tmp_path, HISTORY[:1]) == []
    assert before(tmp_path / "of another machine") == []
    assert list(Checkpoints(None, LAYOUT).before(HISTORY, NOISE)) == []
    assert not caplog.records


@pytest.mark.parametrize("coefficient", [0, -1])
def test_one_other_coefficient_is_another_history(tmp_path, coefficient):
    write(tmp_path, 6)
    other = HISTORY.copy()
    other[3, coefficient] = np.nextafter(other[3, coefficient], 9)
    assert before(tmp_path, other) == [] and before(tmp_path) == [6]


def test_files_of_no_use_are_named(tmp_path, caplog):
    write(tmp_path, 2)
    torn = write(tmp_path, 4)
    torn.write_bytes(torn.read_bytes()[:-1])
    seed = write(tmp_path, 5, noise=Perturbation(Noise(3, True), NOISE.sigma, fresh=True))
    reversed_modules = LoraLayout(2, 2.0, MODULES[::-1], "merged")
    model = tmp_path / "0006" / CHANGES
    model.parent.mkdir()
    write_changes(
        model, reversed_modules, matrices(1)[::-1], description(HISTORY[:6], NOISE, reversed_modules)
    )
    wider = tmp_path / "0007" / CHANGES
    wider.parent.mkdir()
    wide = LoraLayout(2, 2.0, (*MODULES[:1], AdaptedModule("model.layers.1.q", 1, 31, 9)), "merged")
    write_changes(
        wider, wide, [matrices(1)[0], np.zeros((9, 31), np.float32)], description(HISTORY[:7], NOISE, wide)
    )
    empty = tmp_path / "0008" / CHANGES
    empty.parent.mkdir()
    empty.touch()
    assert before(tmp_path) == [2]
    said = [record.getMessage() for record in caplog.records]
    for path in (torn, seed, model, wider, empty):
        (line,) = [each for each in said if str(path) in each]
        assert line.endswith("the updates are added again without it") and "\n" not in line
    assert len(said) == 5


def test_an_edited_matrix_is_never_read(tmp_path):
    path = write(tmp_path, 4)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    checkpoint = Checkpoint(path, LAYOUT)
    assert checkpoint.matrix(0).tobytes() == matrices(4)[0].tobytes()
    with pytest.raises(DamagedChanges, match=rf"^{path}: torn or edited: the checksum of model.layers.1.q"):
        checkpoint.matrix(1)
    path.unlink()
    with pytest.raises(DamagedChanges, match=f"^{path}: "):
        checkpoint.matrix(0)
