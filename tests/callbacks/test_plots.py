import shutil

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

import es_ray
from es_ray.callbacks import plots, progress_figure
from es_ray.callbacks.progress_figure import evolution_progress
from es_ray.config import load
from es_ray.runs.plot_files import latest_plot, plot_file, plotted
from es_ray.runs.run_dir import RunDir
from tests.short_runs import GENERATIONS

pytestmark = pytest.mark.usefixtures("drawn_plots")
POPULATION = 30


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
    """A PNG as an array; fails unless it is a picture."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = matplotlib.image.imread(path)
    assert image.ndim == 3
    assert min(image.shape[:2]) >= 400
    assert image.std() > 0.02, "blank"
    return image


def drawn(path, metrics, base=BASE, population=POPULATION) -> np.ndarray:
    evolution_progress(metrics, base, population, "a title", path)
    return pixels(path)


WRECKED = {"reward_worst": -100_000.0, "reward_mean": -3400.0, "reward_std": 17_000.0}
"""Of a generation with one member that is wrecked."""
SHIFTS = {"reward_mean": 0.0, "reward_best": 5.0, "reward_worst": -5.0, "test_reward": 1.0}


def rewards(picture: np.ndarray) -> np.ndarray:
    """The upper panel, without the legend above it."""
    return picture[80:515, 80:, :3]


def of_color(picture: np.ndarray, color) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour."""
    return np.nonzero(np.abs(picture - np.array(matplotlib.colors.to_rgb(color))).max(axis=-1) < 0.02)


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


@pytest.mark.parametrize("title", ["$x_{$", "task · $model$ · \\bad"])
def test_texts_of_a_user_are_no_formulas(tmp_path, title):
    metrics = [line | {f"{split}_{title}": 1.0 for split in ("centre", "test")} for line in lines(6)]
    evolution_progress(metrics, BASE, 30, title, tmp_path / "a.png")
    pixels(tmp_path / "a.png")


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


def test_a_run_draws_the_last_generation_and_the_latest(finished):
    folder = finished.path / "plots"
    last = pixels(folder / f"evolution_progress_gen{GENERATIONS - 1}.png")
    assert np.array_equal(pixels(folder / "latest.png"), last)


def test_a_run_without_pause_draws_every_generation(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PAUSE", 0.0)
    run = tmp_path / "run"
    es_ray.run(load(finished.path / "config.yaml").replace(output__dir=str(run)))
    pictures = [pixels(run / f"plots/evolution_progress_gen{g}.png") for g in range(GENERATIONS)]
    for earlier, later in zip(pictures, pictures[1:], strict=False):
        assert earlier.shape == later.shape
        assert not np.array_equal(earlier, later)


def test_there_is_a_pause_between_plots_and_the_last_is_always_drawn(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PAUSE", 3600.0)
    run = tmp_path / "run"
    es_ray.run(load(finished.path / "config.yaml").replace(output__dir=str(run)))
    drawn = {path.name for path in (run / "plots").iterdir()}
    assert drawn == {
        "evolution_progress_gen0.png", f"evolution_progress_gen{GENERATIONS - 1}.png", "latest.png"
    }  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2, 7, 10, 17, 25])
@pytest.mark.parametrize("count", [5, 40, 41, 300, 2000])
def test_older_plots_are_thinned_evenly_and_the_last_ones_stay(tmp_path, count, stride):
    run = RunDir(tmp_path)
    run.plots.mkdir()
    (run.plots / "latest.png").touch()
    drawn = [1 + stride * number for number in range(count)]
    for generation in drawn:  # as a long run does it: one after the other
        plot_file(run.plots, generation).touch()
        plots.thin(run)
    left = sorted(int(path.stem.rpartition("gen")[2]) for path in run.plots.glob("evolution*.png"))
    assert (run.plots / "latest.png").exists()
    assert left[-plots.RECENT :] == drawn[-plots.RECENT :]
    older = left[: -plots.RECENT]
    assert older[:1] == drawn[: min(1, len(older))]
    assert len(older) <= plots.OLDER + 1
    if count < plots.RECENT + plots.OLDER // 2:
        assert left == drawn
    else:
        assert len(older) >= min(plots.OLDER // 2, count - plots.RECENT)
        apart = np.diff(older)
        assert apart.max() <= 2 * max(apart.min(), stride) + stride


def test_a_wrecked_member_does_not_flatten_the_axis(tmp_path):
    """Its own curve is cut; the others stay as wide as without it."""

    def height(metrics) -> int:
        rows, _ = of_color(rewards(drawn(tmp_path / "a.png", metrics)), progress_figure.GREEN)
        return int(rows.max() - rows.min())

    usual = height(lines(12))
    wrecked = lines(12)
    wrecked[5] |= WRECKED
    assert height(wrecked) > 0.6 * usual


@pytest.mark.parametrize("population", [2, 8, 30])
@pytest.mark.parametrize("key, sign", [("reward_worst", -1), ("reward_best", 1)], ids=["down", "up"])
def test_one_member_far_away_does_not_flatten_the_axis_in_any_population(tmp_path, population, key, sign):
    def height(metrics) -> int:
        picture = drawn(tmp_path / "a.png", metrics, population=population)
        rows, _ = of_color(rewards(picture), progress_figure.ORANGE)
        return int(rows.max() - rows.min())

    far, spread = lines(12), 1e5 * np.sqrt(population - 1) / population
    far[5] |= {key: sign * 1e5, "reward_mean": -65.0 + sign * 1e5 / population, "reward_std": spread}
    assert height(far) > 0.5 * height(lines(12))


def test_the_band_of_a_generation_with_a_wrecked_member_ends_at_its_best(tmp_path):
    """Mean ± std reaches far beyond every member; drawn so, it would hide the curves."""
    wrecked = lines(12)
    wrecked[5] |= WRECKED
    picture = rewards(drawn(tmp_path / "a.png", wrecked))
    green, _ = of_color(picture, progress_figure.GREEN)
    white = 1 - 0.2 * (1 - np.array(matplotlib.colors.to_rgb(progress_figure.BLUE)))
    band, _ = of_color(picture, white)
    assert band.size > 1000
    assert band.min() >= green.min() - 2


def test_a_wrecked_member_does_not_flatten_a_single_generation(tmp_path):
    def apart(metrics) -> int:
        """Rows between the best member and the centre's test reward."""
        picture = rewards(drawn(tmp_path / "a.png", metrics))
        best, _ = of_color(picture, progress_figure.GREEN)
        test, _ = of_color(picture, progress_figure.ORANGE)
        return int(test.mean() - best.mean())

    assert apart([lines(1)[0] | WRECKED]) > 0.6 * apart(lines(1)) > 50


def test_each_curve_of_a_single_generation_can_be_seen(tmp_path):
    picture = rewards(drawn(tmp_path / "a.png", lines(1)))
    for name in ("BLUE", "GREEN", "PURPLE", "ORANGE"):
        rows, _ = of_color(picture, getattr(progress_figure, name))
        assert rows.size >= 4, name


def test_a_long_run_is_thinned_and_no_peak_is_lost(tmp_path):
    """Of ten thousand generations one has a better member than the others: its peak is as high as it was."""
    usual = {"reward_mean": -90.0, "reward_best": -60.0, "reward_worst": -120.0, "test_reward": -95.0}

    def top(count: int) -> int:
        metrics = [line | usual for line in lines(count)]
        metrics[count // 2]["reward_best"] = -20.0
        found, _ = of_color(rewards(drawn(tmp_path / "a.png", metrics)), progress_figure.GREEN)
        return int(found.min())

    assert abs(top(10_000) - top(100)) <= 12


def test_thousands_of_verdicts_are_shaded_as_one_area(tmp_path, monkeypatch):
    """Each of their own took half a minute to draw."""
    areas = []
    monkeypatch.setattr(
        progress_figure.Axes, "axvspan", lambda panel, first, last, **_: areas.append((first, last))
    )
    metrics = [
        line | {"verdicts": ["kl: 1"] if n % 2 and n > 4000 else []} for n, line in enumerate(lines(9000))
    ]
    drawn(tmp_path / "a.png", metrics)
    assert set(areas) == {(4000.5, 8999.5)}


def test_verdicts_apart_are_areas_apart(tmp_path):
    judged = [line | {"verdicts": ["kl: 1"] if n in (2, 7) else []} for n, line in enumerate(lines(12))]
    all_of_it = [line | {"verdicts": ["kl: 1"] if 2 <= n <= 7 else []} for n, line in enumerate(lines(12))]
    pictures = [drawn(tmp_path / "a.png", metrics) for metrics in (lines(12), judged, all_of_it)]
    shaded = [int((np.abs(picture - pictures[0]).max(axis=-1) > 0.02)[200:].sum()) for picture in pictures]
    assert shaded[1] == pytest.approx(shaded[2] / 3, rel=0.25)


def test_axes_say_what_they_show_with_units(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(progress_figure.Axes, "set_ylabel", lambda panel, label: labels.append(label))
    long = "a_metric_with_quite_a_long_name"
    metrics = lines(5, kl=0.1, drift=0.2, **{f"centre_{long}": 1.0, f"test_{long}": 1.0})
    drawn(tmp_path / "a.png", metrics)
    assert labels == [
        "reward (mean over prompts)", "correct\n(share of answers)", "a_metric_with_quite…\n(mean)",
        "KL to base\n(nats per token)", "drift\n(share of ‖W‖)",
    ]  # fmt: skip


def test_a_usual_run_is_shown_as_a_whole(tmp_path):
    """Its first generations are far below the others, and no wreck: the legend says nothing of a cut."""

    def legend(metrics) -> np.ndarray:
        return drawn(tmp_path / "a.png", metrics)[:75]

    usual = [
        line | {key: -100 * 0.9**number + shift for key, shift in SHIFTS.items()} | {"reward_std": 2.0}
        for number, line in enumerate(lines(100))
    ]
    lower = [usual[0] | {"reward_worst": -150.0}, *usual[1:]]
    wrecked = [*usual[:50], usual[50] | WRECKED, *usual[51:]]
    assert np.array_equal(legend(usual), legend(lower))
    assert not np.array_equal(legend(usual), legend(wrecked))


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


def test_a_damaged_start_does_not_stop_the_plot_command(copied, cli, caplog):
    file = copied / "generations/0000/state.json"
    file.write_text(file.read_text()[:-20])
    (copied / "plots/latest.png").unlink()
    ended = cli("plot", copied)
    assert ended.code == 0, ended.err
    assert f"{file}: torn or edited" in caplog.text
    pixels(copied / "plots/latest.png")


def test_plots_of_generations_that_a_resumed_run_cuts_are_gone(copied, cli):
    run, kept = RunDir(copied), GENERATIONS - 3
    for generation in range(GENERATIONS):
        plots.draw(run, generation)
    for generation in range(kept + 1, GENERATIONS):
        (run.generation(generation) / "DONE").unlink()
    before = plot_file(run.plots, kept).read_bytes()
    assert latest_plot(run.plots).read_bytes() != before
    ended = cli("run", "--resume", "--output", copied, "--generations", kept + 1)
    assert ended.code == 0, ended.err
    assert plotted(run.plots) == list(range(kept + 1))
    assert np.array_equal(pixels(latest_plot(run.plots)), pixels(plot_file(run.plots, kept)))


def test_a_run_without_plots_draws_none_and_names_none(tmp_path, capfd):
    run = es_ray.run(
        load(sets=["output.plots_every=null", "task.max_new_tokens=4", "engine.shard=4"]).replace(
            evolution__population=2, evolution__generations=2, cluster__workers=0, output__dir=str(tmp_path)
        ),
        callbacks=[es_ray.TerminalConsole()],
    )
    assert not list((run.path / "plots").iterdir())
    assert "latest.png" not in capfd.readouterr().out
