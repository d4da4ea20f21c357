"""Speed of the transformers engine on this machine's CPU, in one run.

30 members x 2 prompts, a fixed number of new tokens, every way of evaluating them in turn, round after round:
- base: the model as transformers loads it, without adapters, on the same rows in our own decoding loop;
- base generate: the same through `model.generate`;
- base, prepared: the model as our engine runs it (joined projections), without
  adapters: the difference from the population is what the adapters cost;
- population: our engine, building the members from their seeds included;
- PEFT, mixed batch: `generate(adapter_names=...)`, all rows at once, adapters loaded beforehand;
- PEFT, one member at a time: `set_adapter`, then its prompts, adapters loaded beforehand.
The bundled model or another one (--model), all ways in one dtype (--dtype).
CPU time beside wall-clock time, since the machine may not be quiet; ratios are medians over rounds.
Then a short run through the driver, for the seconds of a generation by phase.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from es_ray import driver
from es_ray.config import BUNDLED, Config
from es_ray.config import load as load_config
from es_ray.engines.base import Row, Variant
from es_ray.engines.hf.decoding import decode
from es_ray.engines.hf.engine import TransformersEngine
from es_ray.engines.hf.population_linear import PopulationAdapters
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from es_ray.runs.environment import environment
from es_ray.runs.run_dir import RunDir


def main(
    model: Annotated[str, typer.Option(help="A model's folder or name; default: the bundled one.")] = BUNDLED,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto: as a run takes it.")
    ] = "auto",
    members: Annotated[int, typer.Option(help="Members of the population.")] = 30,
    tokens: Annotated[int, typer.Option(help="New tokens of every row.")] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds that are timed, after one that is not.")] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads, for every way.")] = 1,
    only: Annotated[
        str, typer.Option(help="These ways beside the population, by semicolons; default: all.")
    ] = "",
    generations: Annotated[int, typer.Option(help="Generations through the driver.")] = 10,
    output: Annotated[Path, typer.Option(help="Where local.json and local.md go.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure, print a table, and write it to files; a case of the same kind there is replaced."""
    wanted = [name.strip() for name in only.split(";")] if only else WAYS
    if unknown := set(wanted) - set(WAYS):
        raise typer.BadParameter(f"--only: {', '.join(sorted(unknown))}; there are {'; '.join(WAYS)}")
    config = load_config(preset="tiny-chat-0.1.0" if model == BUNDLED else "general").replace(
        model__path=model,
        model__dtype=dtype,
        task__name="conciseness",
        evolution__population=members,
        task__max_new_tokens=tokens,
        engine__threads=threads,
    )
    cpu, wall, used = measure(config, rounds, wanted)
    phases = generation_seconds(config, generations) if generations else {}
    report = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "environment": environment(),
        "model": Path(model).name,
        "dtype": used,
        "members": members,
        "prompts": 2,
        "new_tokens": tokens,
        "threads": threads,
        "rounds": rounds,
        "cpu_seconds": cpu,
        "seconds": wall,
        "generation_seconds": phases,
    }
    output.mkdir(parents=True, exist_ok=True)
    file = output / "local.json"
    cases = json.loads(file.read_text()) if file.is_file() else []
    cases = sorted([case for case in cases if case_of(case) != case_of(report)] + [report], key=case_of)
    file.write_text(json.dumps(cases, indent=2) + "\n")
    (output / "local.md").write_text(markdown(cases))
    show(report)


def case_of(report: dict[str, Any]) -> tuple[Any, ...]:
    """What a measurement is of: one of the same replaces it."""
    return tuple(report[key] for key in ("model", "dtype", "threads", "members", "new_tokens"))


Seconds = dict[str, list[float]]
WAYS = ["base", "base generate", "base, prepared", "PEFT, mixed batch", "PEFT, one member at a time"]
"""What the population is compared with."""


def measure(config: Config, rounds: int, wanted: Sequence[str]) -> tuple[Seconds, Seconds, str]:
    """CPU seconds and wall-clock seconds of every way in every round, and the dtype of all."""
    experiment = Experiment(config)
    engine = TransformersEngine(experiment)
    engine.stop_ids = frozenset()  # every row runs to its full length
    dtype = getattr(torch, engine.info.dtype)
    strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    theta = strategy.initial()[THETA]
    perturbation = strategy.perturbation
    indices = strategy.ask(0)
    rows = [Row(Variant(index), ids) for index in indices for ids in experiment.prompt_ids["train"]]
    prompts = [row.prompt_ids for row in rows]
    tokens = config.task.max_new_tokens

    plain, prepared = load(experiment, dtype), load(experiment, dtype)
    modules = [module.name for module in experiment.layout.modules]
    PopulationAdapters(prepared, modules, experiment.layout.scaling)
    peft = any(name.startswith("PEFT") for name in wanted)
    members = [perturbation.member(theta, 0, index) for index in indices] if peft else []
    adapted = peft_model(experiment, dtype, members) if peft else None
    names = [f"member{row.variant.member}" for row in rows]
    per_member = len(experiment.prompt_ids["train"])

    def one_at_a_time() -> None:
        for index in indices:
            adapted.set_adapter(f"member{index}")
            generate(adapted, prompts[index * per_member : (index + 1) * per_member], tokens)

    ways: dict[str, Callable[[], Any]] = {
        "base": lambda: decode(plain, prompts, frozenset(), tokens),
        "base generate": lambda: generate(plain, prompts, tokens),
        "base, prepared": lambda: decode(prepared, prompts, frozenset(), tokens),
        "population": lambda: engine.generate([theta], perturbation, rows),
        "PEFT, mixed batch": lambda: generate(adapted, prompts, tokens, adapter_names=names),
        "PEFT, one member at a time": one_at_a_time,
    }
    ways = {name: way for name, way in ways.items() if name in (*wanted, "population")}
    cpu: Seconds = {name: [] for name in ways}
    wall: Seconds = {name: [] for name in ways}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, way in ways.items():
                started = time.process_time(), time.perf_counter()
                way()
                if number:
                    cpu[name].append(round(time.process_time() - started[0], 4))
                    wall[name].append(round(time.perf_counter() - started[1], 4))
    engine.close()
    return cpu, wall, engine.info.dtype


def load(experiment: Experiment, dtype: torch.dtype) -> Any:
    """The plain transformers model."""
    return AutoModelForCausalLM.from_pretrained(experiment.source.path, dtype=dtype).eval()


def peft_model(experiment: Experiment, dtype: torch.dtype, vectors: list[Any]) -> Any:
    """A PEFT model with every member loaded from files."""
    writer = AdapterWriter(experiment.layout, experiment.source.path)
    with tempfile.TemporaryDirectory() as folder:
        for index, vector in enumerate(vectors):
            writer.write(vector, Path(folder) / str(index), "")
        model = PeftModel.from_pretrained(load(experiment, dtype), f"{folder}/0", adapter_name="member0")
        for index in range(1, len(vectors)):
            model.load_adapter(f"{folder}/{index}", adapter_name=f"member{index}")
    return model.eval()


def generate(model: Any, prompts: list[tuple[int, ...]], tokens: int, **options: Any) -> Any:
    """Greedy generation of a left-padded batch through transformers, all rows to their full length."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        **options,
    )


def generation_seconds(config: Config, generations: int) -> dict[str, list[float]]:
    """Seconds by phase of the generations of a run through the driver, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = config.replace(
            evolution__generations=generations, output__dir=f"{folder}/run", cluster__workers=0
        )
        driver.run(resolved)
        lines = RunDir(Path(folder) / "run").metrics()[1:]  # the first one warms up
    return {phase: [line["seconds"][phase] for line in lines] for phase in lines[0]["seconds"]}


def summary(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} s ({min(values):.3f}-{max(values):.3f})"


def table_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells under HEADINGS of every way."""
    cpu, wall = report["cpu_seconds"], report["seconds"]
    count = report["members"] * report["prompts"] * report["new_tokens"]
    return [
        (
            name,
            summary(cpu[name]),
            summary(wall[name]),
            f"{count / statistics.median(cpu[name]):.0f}",
            f"{times(cpu, name):.2f}",
            f"{times(wall, name):.2f}",
        )
        for name in cpu
    ]


def times(seconds: Seconds, name: str) -> float:
    """The median over rounds of a way's seconds divided by the population's."""
    rounds = zip(seconds[name], seconds["population"], strict=True)
    return statistics.median(one / population for one, population in rounds)


HEADINGS = ("way", "CPU seconds", "wall-clock seconds", "tokens per CPU second",
            "times the population's, CPU", "wall-clock")  # fmt: skip


def markdown(cases: list[dict[str, Any]]) -> str:
    """The reports for people."""
    lines = [
        "# The transformers engine on a CPU",
        "",
        "Each part is one run, with median and range of its rounds; ratios are medians over rounds.",
        "",
    ]
    for report in cases:
        hardware, versions = report["environment"]["hardware"], report["environment"]["versions"]
        lines += [
            f"## {report['model']}, {report['dtype']}, {report['threads']} of {hardware['cores']} cores",
            "",
            f"{report['date']}, {hardware['cpu']}; torch {versions['torch']}, transformers "
            f"{versions['transformers']}, peft {versions['peft']}; {report['members']} members x "
            f"{report['prompts']} prompts x {report['new_tokens']} tokens, {report['rounds']} rounds.",
            "",
            f"Command: `python {' '.join(report['environment']['command'])}`",
            "",
            f"| {' | '.join(HEADINGS)} |",
            f"|{' --- |' * len(HEADINGS)}",
            *(f"| {' | '.join(row)} |" for row in table_rows(report)),
            "",
        ]
        if phases := report["generation_seconds"]:
            lines += [
                "A generation through the driver, natural lengths, recording and plotting beside it: "
                + ", ".join(f"{phase} {summary(values)}" for phase, values in phases.items())
                + ".",
                "",
            ]
    return "\n".join(lines)


def show(report: dict[str, Any]) -> None:
    """The report on the terminal."""
    console = Console()
    table = Table(*HEADINGS)
    for row in table_rows(report):
        table.add_row(*row)
    console.print(table)
    phases = Table("phase of a generation", "seconds")
    for phase, values in report["generation_seconds"].items():
        phases.add_row(phase, summary(values))
    console.print(phases)


if __name__ == "__main__":
    typer.run(main)
