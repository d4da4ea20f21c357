"""The lines that a run prints. A line is its parts: a terminal breaks it between two, never within one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from es_ray.callbacks.base import RunInfo
from es_ray.config import BUNDLED, Config, ScheduleConfig, noise_origin
from es_ray.engines.registry import engine_spec
from es_ray.imports import short_name
from es_ray.judge.table import formatted, watched_metric
from es_ray.lora.noise_report import NoiseReport, Spread

Line = Sequence[str]
DRIFT_EVERY = 10
"""Generations after which the drift is shown where no KL is measured."""
INDENT = "    "
"""In front of what does not fit in a line's first row."""


def rows(line: Line, width: int) -> Iterator[str]:
    """The rows of a line on a terminal: each at most so many cells wide, unless one part alone is wider."""
    row = line[0]
    for part in line[1:]:
        if row.strip() and cell_len(row) + 1 + cell_len(part) > width:
            yield row
            row = f"{INDENT}{part}"
        else:
            row = f"{row} {part}"
    yield row


def prose(text: str) -> Line:
    """A line that may be broken between any two words."""
    return text.split(" ")


def head(run: RunInfo) -> list[Line]:
    """What runs where, and where it writes."""
    config, engine, evolution = run.config, run.engine, run.config.evolution
    bundled = " (bundled)" if config.model.path == BUNDLED else ""
    unit = " in units of sigma" if evolution.update_scale == "sigma" else ""
    rule = "" if evolution.optimizer == "sgd" else f", {short_name(evolution.optimizer)}"
    origin = noise_origin(config) if run.calibrated is None else "calibrated"
    lines = [
        f"es-ray: {run.model}{bundled}, {_si(engine.parameters)} parameters in {engine.dtype}",
        f"engine: {engine_spec(config.engine.kind).name} on {engine.device}, {run.where}",
        f"{_evolved(run)} in {run.modules} modules, {run.layers} layers"
        + (", of which B evolves" if config.lora.form == "b" else ""),
        f"noise: {_noise_kind(config)}{_schedule(evolution.noise.schedule)} ({origin}); "
        f"learning rate {evolution.learning_rate:g}{unit}{_schedule(evolution.learning_rate_schedule)}{rule}",
        *_noise_sizes(run.noise),
        *([] if run.calibrated is None else [f"  calibrated: {run.calibrated}"]),
        f"task: {config.task.name}, {_prompts(run)}",
        f"run: population {evolution.population}, {_generations(run.first, evolution.generations)}, "
        f"seed {evolution.seed}",
    ]
    return [*map(prose, lines), [f"writing {run.path}"]]


def base_lines(base: Mapping[str, Mapping[str, float]]) -> list[Line]:
    """The base model's reward and metrics: what the run has to beat."""
    return [
        [f"base model, {'training' if split == 'train' else split}:", *_summary(base[split])]
        for split in base
    ]


def generation_line(metrics: Mapping[str, Any]) -> Line:
    """The members, then, as test@g, their starting point: the centre after generation g."""
    name = watched_metric(key.removeprefix("centre_") for key in metrics if key.startswith("centre_"))
    mean = formatted("reward", metrics["reward_mean"])
    # equal rewards may have a standard deviation of 1e-14
    spread = "0" if metrics["zero_variance"] else formatted("reward", metrics["reward_std"])
    line = [f"gen {metrics['generation']:3d}", f"reward {mean:>6} ± {spread:>5}"]
    if name is not None:
        line.append(f"{name} {formatted(name, metrics[f'members_{name}']):>4}")
    line.append(f"cut {metrics['truncated']:3.0%}")
    seconds = metrics["seconds"]["total"]
    end = f"{seconds:.{2 if seconds < 10 else 1 if seconds < 100 else 0}f}s"
    if metrics["test_reward"] is not None:
        shown = f" {formatted(name, metrics[f'test_{name}'])}" if name is not None else ""
        end = f"test{_centre(metrics)} {formatted('reward', metrics['test_reward'])}{shown} {end}"
    return [*line, end]


def watched_lines(metrics: Mapping[str, Any], before: Sequence[str]) -> list[Line]:
    """KL and drift where they are due, and the verdicts that are new; before: the last generation's."""
    found: list[Line] = []
    words = {"kl": "KL to base", "kl_forward": "KL of base to it"}
    kl = [f"{said} {metrics[key]:.3g}," for key, said in words.items() if key in metrics]
    if "drift" in metrics and (kl or metrics["generation"] % DRIFT_EVERY == 0):
        found.append([f"  centre{_centre(metrics)}:", *kl, f"drift {metrics['drift']:.2%}"])
    known = {verdict.partition(":")[0] for verdict in before}
    for verdict in metrics.get("verdicts", ()):
        if verdict.partition(":")[0] not in known:  # once is enough
            found.append(prose(f"  warning: the centre{_centre(metrics)} has a verdict: {verdict}"))
    if "rollback" in metrics:
        where = "start" if metrics["rollback"] < 0 else f"centre after generation {metrics['rollback']}"
        found.append(prose(f"  back to the {where}, with half the learning rate (guard.action rollback)"))
    return found


def _centre(metrics: Mapping[str, Any]) -> str:
    """Which centre a generation starts from."""
    return f"@{metrics['generation'] - 1}" if metrics["generation"] else "@start"


def no_spread(metrics: Mapping[str, Any], config: Config) -> Line:
    """Why a generation took no step, as all its members have the same reward: judged by their answers."""
    key, value = _noise_scale(config, metrics["generation"])
    now = f"{key} (now {value:g})"
    changed, members = metrics.get("changed_members"), config.evolution.population
    strictest = next((name for name in ("exact", "correct") if f"members_{name}" in metrics), None)
    if strictest is not None and metrics[f"members_{strictest}"] == 1.0:
        # "right" may be less than the reward asks for; an exact answer is all that there is to learn
        unless = (
            f", unless the reward asks for more: then raise {now}"
            if strictest == "correct" and not changed
            else ""
        )
        text = (
            f"no step in this generation: all members have the same reward and all their answers are "
            f"{strictest}. If this goes on, nothing is left to learn{unless}"
        )
    elif changed is None:
        text = (
            f"warning: no step in this generation: all members have the same reward. If this goes on, the "
            f"reward does not tell their answers apart, or the noise is too small (raise {now}); see "
            f"generations/{metrics['generation']:04d}/population.jsonl"
        )
    elif not changed:
        text = (
            f"warning: no step in this generation: all members give the centre's answers. If this goes on, "
            f"the noise is too small to change a token: raise {now}"
        )
    elif metrics["distinct_members"] == 1:
        text = (
            f"warning: no step in this generation: all members give the same answers, other ones than the "
            f"centre. If this goes on, raise {now}, or lower it if these answers are broken"
        )
    else:
        text = (
            f"warning: no step in this generation: {round(changed * members)} of {members} members answer "
            "differently from the centre, but all have the same reward. If this goes on, the reward does not "
            f"tell their answers apart (see generations/{metrics['generation']:04d}/population.jsonl)"
        )
    return prose(f"  {text}")


def _noise_scale(config: Config, generation: int | None = None) -> tuple[str, float]:
    """The key that scales the members' noise, and its value; generation: 0 may have one of its own."""
    if generation == 0 and config.init.mode == "population":
        return "init.scale", config.init.scale
    noise = config.evolution.noise
    key = {"constant": "std", "relative": "relative"}.get(noise.kind, "multiplier")
    return f"evolution.noise.{key}", getattr(noise, key)


def _schedule(schedule: ScheduleConfig) -> str:
    if schedule.kind == "constant":
        return ""
    return f" ({schedule.kind} to {schedule.to:g} x over {schedule.over} generations)"


def _noise_kind(config: Config) -> str:
    """The kind of noise, with the value that scales it."""
    kind, (key, value) = config.evolution.noise.kind, _noise_scale(config)
    name = key.rpartition(".")[2]
    return f"{kind} {value:g}" if name == kind else f"{kind}, {name} {value:g}"


def _noise_sizes(report: NoiseReport | None) -> Iterator[str]:
    """How large the noise is: median and range over the adapted matrices."""
    sizes = [] if report is None else [("", report.usual), ("generation 0: ", report.first)]
    for which, size in sizes:
        if size is not None:
            change = size.relative_size
            share = f", a member changes a matrix by {_spread(change)} of it" if change is not None else ""
            yield f"  {which}sigma {_spread(size.sigma)}{share}"


def _spread(values: Spread) -> str:
    low, middle, high = (f"{value:.3g}" for value in (values.min, values.median, values.max))
    return middle if low == high else f"{middle} ({low} to {high})"


def _prompts(run: RunInfo) -> str:
    """How many prompts there are, how many are asked, and how often."""
    task, counts = run.config.task, run.prompts
    train = f"{counts['train']:,} training"
    if task.batch is not None:
        whom = " of each pair of members" if task.batch_by == "member" else ""
        train = f"{task.batch} of {train} prompts drawn each generation{whom}"
    most = run.config.evaluation.examples
    watched = []
    for split in ("test", "validation"):
        if split in counts:
            limited = f"{most} of " if most is not None and most < counts[split] else ""
            watched.append(f"{limited}{counts[split]:,} {split}")
    between = " and " if task.batch is None and len(watched) == 1 else ", "
    found = f"{train}{between}{' and '.join(watched)} prompts"
    if task.temperature > 0:
        found += f"; {task.samples} sampled at temperature {task.temperature:g} for each"
    return found


def _summary(summary: Mapping[str, float]) -> Line:
    shown = [f"{name} {formatted(name, value)}" for name, value in summary.items()]
    return [*(f"{part}," for part in shown[:-1]), shown[-1]]


def _generations(first: int, total: int) -> str:
    return f"generations {first}-{total - 1}" if first < total else f"all {total} generations are complete"


def _evolved(run: RunInfo) -> str:
    rank = run.config.lora.rank
    if run.config.lora.form == "merged":
        return f"full weights, by members' changes of rank {rank} added to them (EGGROLL),"
    return f"LoRA: {run.parameters:,} entries of rank {rank}"


def _si(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)


def selected_lines(results: Mapping[str, Any], path: Path, last: int, has_adapters: bool = True) -> list[str]:
    """Where the selected centre is, if it is not the last one; results: as in test_results.json."""
    generation = results.get("selected", {}).get("generation", last)
    if generation == last:
        return []
    adapter = path / "generations" / f"{generation:04d}" / "adapter"
    if generation >= 0 and adapter.is_dir():
        return [f"  selected: generation {generation}, adapter {adapter}"]
    if generation >= 0 and not has_adapters:
        command = f"es-ray export {path} --merged --output FOLDER"
        return [f"  selected: generation {generation}, model by {command}"]
    if generation >= 0:
        command = f"es-ray member {path} --generation {generation} --centre --output FOLDER"
        return [f"  selected: generation {generation}, adapter by {command}"]
    return ["  selected: the start, from before the first update"]


def next_line(results: Mapping[str, Any], path: Path, has_adapters: bool = True) -> str:
    """What to do after a run: take what it has selected, or look at answers if that is the start."""
    if results.get("selected", {}).get("generation", 0) < 0:
        return f"next: es-ray evaluate {path} --split train"
    return f"next: es-ray export {path}{'' if has_adapters else ' --merged'} --output FOLDER"
