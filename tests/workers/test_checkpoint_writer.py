"""When a generation gets a checkpoint, and of whose weights."""

from types import SimpleNamespace

import numpy as np
import pytest

from es_ray.config import Config
from es_ray.errors import RunError
from es_ray.lora.checkpoints import CHANGES, Checkpoints
from es_ray.runs.recorder import GenerationRecord
from es_ray.runs.run_dir import RunDir
from es_ray.workers.checkpoint_writer import with_checkpoint
from tests.lora.test_checkpoints import HISTORY, LAYOUT, NOISE, matrices


class Workers:
    """A pool whose workers agree in D of all matrices but these."""

    def __init__(self, *differing: int) -> None:
        self.differing = differing
        self.asked = 0

    def change(self, centre, perturbation, number):
        assert perturbation is NOISE and centre is HISTORY
        self.asked += 1
        return None if number in self.differing else matrices(3)[number]


def record_of(tmp_path, pool, generation: int, every: int | None = 5, history=HISTORY, form="merged"):
    (tmp_path / "generations").mkdir(exist_ok=True)
    config = Config().replace(lora__form=form, output__checkpoint_every=every)
    record = GenerationRecord(generation, {"theta": history}, {}, SimpleNamespace(), np.zeros(4), {}, False)
    return with_checkpoint(
        pool,
        SimpleNamespace(perturbation=NOISE),
        SimpleNamespace(config=config, layout=LAYOUT),
        RunDir(tmp_path),
        record,
    )


def test_a_due_generation_has_the_changes_of_the_centre_it_started_from(tmp_path):
    record = record_of(tmp_path, Workers(), 10)
    assert record.folder == tmp_path / "generations/.0010"
    record.folder.rename(tmp_path / "generations/0010")
    (found,) = Checkpoints(tmp_path / "generations", LAYOUT).before(HISTORY, NOISE)
    assert found.updates == len(HISTORY)
    assert [found.matrix(n).tobytes() for n in (0, 1)] == [each.tobytes() for each in matrices(3)]


@pytest.mark.parametrize(
    ("generation", "every", "history"), [(11, 5, HISTORY), (10, None, HISTORY), (0, 5, HISTORY[:0])]
)
def test_others_have_none_and_ask_nobody(tmp_path, generation, every, history):
    workers = Workers()
    assert record_of(tmp_path, workers, generation, every, history).folder is None
    assert workers.asked == 0 and not list((tmp_path / "generations").iterdir())


def test_where_two_workers_differ_there_is_none(tmp_path, caplog):
    record = record_of(tmp_path, Workers(1), 10)
    assert record.folder is not None and not (record.folder / CHANGES).exists()
    (line,) = [each.getMessage() for each in caplog.records]
    assert line == (
        "generation 10 has no checkpoint: two workers have different weights: memory may be damaged"
    )


def test_a_full_disk_ends_the_run_with_the_files_name(tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("es_ray.workers.checkpoint_writer.write_changes", full)
    with pytest.raises(RunError, match=rf"{CHANGES}: cannot be written: No space left"):
        record_of(tmp_path, Workers(), 10)
