"""What ran where, how to load its adapter, and the command that repeats it."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.config import BUNDLED, Config, LoraConfig
from es_ray.config.secrets import masked_text, masked_tree, masked_words
from es_ray.engines.registry import AUTO
from es_ray.imports import short_name
from es_ray.judge.report.charts import phase
from es_ray.paths import data_dir
from es_ray.runs.cards import loading_code, model_code
from es_ray.runs.generation_folder import ADAPTER
from es_ray.runs.run_dir import RunDir

Facts = list[tuple[str, str]]


def environment(run: RunDir) -> dict[str, Any]:
    """environment.json; empty where it is missing or torn: a record for people, which the page says."""
    try:
        found = json.loads(run.environment_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def machine(env: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], dtype: str | None) -> Facts:
    """Where a run ran: host, hardware, versions, and who computed."""
    if not env:
        return [("environment", "not recorded: environment.json is missing or torn")]
    hardware = env.get("hardware", {})
    gpus = hardware.get("gpus", [])
    counted = {name: gpus.count(name) for name in gpus}
    workers = sorted({line.get("workers", 1) for line in metrics})
    span = f"{workers[0]}" if len(workers) == 1 else f"{workers[0]} to {workers[-1]}"
    versions = ", ".join(f"{name} {number}" for name, number in env.get("versions", {}).items() if number)
    starts = env.get("resumed", [])
    found = [
        ("started", env.get("date", "not recorded")),
        ("host", env.get("host", "not recorded")),
        ("hardware of the driver", f"{hardware.get('cpu', '?')}, {hardware.get('cores', '?')} cores"),
        ("GPUs of the driver", ", ".join(f"{count} × {name}" for name, count in counted.items()) or "none"),
        ("workers", span),
        ("computed in", dtype or "not recorded"),
        ("versions", f"Python {env.get('python', '?')}, {versions}"),
        ("git revision", env.get("git_revision") or "not recorded"),
    ]
    for start in starts:
        where = f"{start.get('date', '?')} on {start.get('host', '?')}"
        found.append(("resumed", f"from generation {start.get('from_generation', '?')}, {where}"))
    return [(name, str(value)) for name, value in found]


def settings(config: Config, env: Mapping[str, Any]) -> Facts:
    """What a run did, in the words of its configuration; all of it is in config.yaml."""
    evolution, task, lora = config.evolution, config.task, config.lora
    noise = evolution.noise
    scale = {"constant": "std", "relative": "relative"}.get(noise.kind, "multiplier")
    sigma = env.get("noise", {}).get("sigma") or {}
    unit = " × sigma" if evolution.update_scale == "sigma" else ""
    batch = "all of them" if task.batch is None else f"{task.batch} drawn for each {_drawn(task.batch_by)}"
    options = masked_tree(task.options)
    engine = "chosen by the machine" if config.engine.kind == AUTO else short_name(config.engine.kind)
    found = [
        ("model", "tiny-chat, bundled" if config.model.path == BUNDLED else config.model.path),
        _evolved(lora),
        ("task", task.name + "".join(f", {key}: {value}" for key, value in options.items())),
        ("training prompts", f"{_source(task.train)}; in each generation {batch}"),
        ("test prompts", _source(task.test)),
    ]
    if task.temperature > 0:
        found.append(("samples", f"{task.samples} for each prompt, at temperature {task.temperature:g}"))
    return [
        *found,
        ("population", f"{evolution.population}" + (", antithetic pairs" if evolution.antithetic else "")),
        ("noise", ("" if noise.kind == scale else f"{noise.kind}, ") + f"{scale} {getattr(noise, scale)}"
         + (f", median sigma {sigma['median']:.3g}" if "median" in sigma else "")),
        ("update", f"{short_name(evolution.optimizer)}, learning rate {evolution.learning_rate:g}{unit}, "
         f"shaping {evolution.shaping}"),
        ("seed", str(evolution.seed)),
        ("engine", engine),
        ("guard", config.guard.action),
    ]  # fmt: skip


def _source(data: str | None) -> str:
    return "those of the task" if data is None else masked_text(data)


def _evolved(lora: LoraConfig) -> tuple[str, str]:
    if lora.form == "merged":
        return "weights", f"evolved by members' changes of rank {lora.rank} (EGGROLL), layers {lora.layers}"
    return "adapter", f"LoRA, form {lora.form}, rank {lora.rank}, alpha {lora.alpha:g}, layers {lora.layers}"


def _drawn(batch_by: str) -> str:
    return "pair of members" if batch_by == "member" else "generation"


@dataclass(frozen=True)
class Loading:
    """How to use what was evolved. what: in words; command: needed first, or none; code: Python."""

    what: str
    command: str
    code: str


def loading(run: RunDir, config: Config, last: int, selected: int | None, dtype: str | None) -> Loading:
    """For the selected centre, or the last one where none is selected, or it is the start."""
    chosen = last if selected is None or selected < 0 else selected
    folder = run.generation(chosen) / ADAPTER
    what = f"the {'last' if chosen != selected else 'selected'} centre, after generation {chosen}"
    if selected is not None and selected < 0:
        what += "; the selected one is the start, from before the first update"
    command = ""
    if config.lora.form == "merged":
        model = f"{run.path.name}-model"
        written = ["export", str(run.path), "--generation", str(chosen), "--merged", "--output", model]
        return Loading(what, shlex.join(["es-ray", *written]), model_code(model, dtype))
    if not folder.is_dir():
        folder = Path(f"{run.path.name}-adapter")
        rebuilt = ["member", str(run.path), "--generation", str(chosen), "--centre", "--output", str(folder)]
        command = shlex.join(["es-ray", *rebuilt])
    return Loading(what, command, loading_code(_base_model(run, config, chosen), dtype, str(folder)))


def _base_model(run: RunDir, config: Config, generation: int) -> str:
    """The base model's folder or name, as the adapters name it."""
    file = run.generation(generation) / ADAPTER / "adapter_config.json"
    if file.is_file():
        return str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return str(data_dir() / "tiny_chat") if config.model.path == BUNDLED else config.model.path


def repeat(run: RunDir) -> str:
    """The command that runs the same again, into a new folder beside the run's, whose path is absolute."""
    again = run.path.with_name(f"{run.path.name}-again")
    return shlex.join(["es-ray", "run", "--config", str(run.config_file), "--output", str(again)])


def started_with(env: Mapping[str, Any]) -> str:
    """The command line that was typed; empty where it is not known."""
    words = [str(word) for word in env.get("command", [])]
    if not words:
        return ""
    first = "es-ray" if words[0].endswith(("es-ray", "cli/main.py")) else words[0]
    return shlex.join([first, *masked_words(words[1:])])


@dataclass(frozen=True)
class Phase:
    """Of all generations: seconds in all, and those of a generation in the middle."""

    name: str
    sum: float
    median: float
    share: float | None


def phases(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Phase]:
    """Where the time of the generations went; recording runs beside the next one, and has no share."""
    total = float(np.nansum(phase(metrics, "total")))
    for name in ("evaluate", "update", "total", "record"):
        values = phase(metrics, name)
        if not np.isnan(values).all():
            spent = float(np.nansum(values))
            share = spent / total if name in ("evaluate", "update") and total else None
            yield Phase(name, spent, float(np.nanmedian(values)), share)
