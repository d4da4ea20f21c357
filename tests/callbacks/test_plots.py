import shutil

import matplotlib.image
import numpy as np
import pytest

from es_ray.callbacks.progress_figure import evolution_progress
from tests.short_runs import GENERATIONS


def lines(count: int, **changes) -> list[dict]:
    return [
        {
            "generation": generation,
            "reward_mean": -90.0 + 5 * generation,
            "reward_std": 10.0,
            "reward_best": -60.0 + 5 * generation,
            "reward_worst": -120.0 + 5 * generation,
            "centre_reward": -88.0 + 5 * generation,
            "centre_correct": 1.0,
            "test_reward": -95.0 + 4 * generation,
            "test_correct": 0.875,
        }
        | changes
        for generation in range(count)
    ]


BASE = {"train": {"reward": -92.0, "correct": 1.0}, "test": {"reward": -97.0, "correct": 1.0}}


def pixels(path) -> np.ndarray:
    """A PNG as an array, after a look at whether it is a picture at all."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = matplotlib.image.imread(path)
    assert image.ndim == 3
    assert min(image.shape[:2]) >= 400
    assert image.std() > 0.02, "blank"
    return image


def drawn(path, metrics, base=BASE) -> np.ndarray:
    evolution_progress(metrics, base, "a title", path)
    return pixels(path)


def test_a_plot_shows_each_of_its_curves(tmp_path):
    """A change of any one curve changes the picture, and in no other way than that."""
    usual = drawn(tmp_path / "a.png", lines(6))
    assert np.array_equal(usual, drawn(tmp_path / "b.png", lines(6)))
    for key in ("reward_mean", "reward_std", "reward_best", "reward_worst", "test_reward", "test_correct"):
        metrics = lines(6)
        metrics[3][key] *= 0.9
        changed = drawn(tmp_path / "c.png", metrics)
        assert changed.shape == usual.shape
        assert not np.array_equal(changed, usual), f"{key} is not drawn"


def test_the_base_model_is_a_line(tmp_path):
    usual = drawn(tmp_path / "a.png", lines(6))
    assert not np.array_equal(usual, drawn(tmp_path / "b.png", lines(6), base=None))
    for split in ("train", "test"):
        other = {**BASE, split: {"reward": -70.0, "correct": 1.0}}
        assert not np.array_equal(usual, drawn(tmp_path / "b.png", lines(6), other)), f"{split} has no line"


@pytest.mark.parametrize(
    "metrics",
    [
        lines(1),
        lines(2),
        lines(3, test_reward=None, test_correct=None),
        lines(200),
        lines(3, reward_std=0.0, reward_best=0.0, reward_worst=0.0, reward_mean=0.0),
        [*lines(1), *lines(3, test_reward=None, test_correct=None)[1:]],
    ],
)
def test_any_run_can_be_drawn(tmp_path, metrics):
    drawn(tmp_path / "a.png", metrics)


def test_a_run_draws_every_generation_and_the_latest(finished):
    plots = finished.path / "plots"
    pictures = [pixels(plots / f"evolution_progress_gen{g}.png") for g in range(GENERATIONS)]
    for earlier, later in zip(pictures, pictures[1:], strict=False):
        assert earlier.shape == later.shape
        assert not np.array_equal(earlier, later)
    assert np.array_equal(pixels(plots / "latest.png"), pictures[-1])


def test_the_plot_command_draws_the_same_again(finished, tmp_path, cli):
    run = shutil.copytree(finished.path, tmp_path / "run")
    shutil.rmtree(run / "plots")
    (run / "plots").mkdir()
    ended = cli("plot", run)
    assert ended.code == 0, ended.err
    name = f"evolution_progress_gen{GENERATIONS - 1}.png"
    assert name in ended.out
    assert {p.name for p in (run / "plots").iterdir()} == {name, "latest.png"}
    for file in (run / "plots").iterdir():
        assert np.array_equal(pixels(file), pixels(finished.path / "plots" / name))
