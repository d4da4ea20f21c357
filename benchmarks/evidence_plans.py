"""What is to be shown, as data: a plan is a list of runs, each a name and the settings that it changes.

The plans are in the order of their value: where the time does not suffice, the last ones are left out.
Seeds are 111 and up, and nothing was chosen by them. Earlier rules (calibrate, the guard, chain_sum with 16
tokens) ran with seeds 101 to 105; what was changed since was not tried on the seeds here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import evidence_data as data

from es_ray.paths import data_dir

Settings = Mapping[str, Any]
SEEDS: Final = (111, 112, 113, 114, 115)
RELATIVE, RATE = "evolution.noise.relative", "evolution.learning_rate"

SMOKE: Final = "smoke"
COMMON: Final[Settings] = {
    "evolution.population": 64,
    "task.batch": 32,
    "task.max_new_tokens": 16,
    "evaluation.every": 5,
}
"""64 members x 32 prompts; held-out prompts every five generations."""


@dataclass(frozen=True)
class Run:
    """One run. settings: by dotted key, over the general defaults; seconds: expected on an H100."""

    name: str
    settings: Settings
    seconds: float

    @property
    def plan(self) -> str:
        """The plan that it belongs to."""
        return self.name.partition("/")[0]

    @property
    def setting(self) -> str:
        """What it tries: the runs of one plan with the same setting differ in their seeds."""
        return self.name.partition("/")[2].rpartition("/")[0]


@dataclass(frozen=True)
class Plan:
    """runs(calibrated): in their order; calibrated: what `es-ray calibrate` recommends for `calibrate`.

    calibrate: settings of the run that is calibrated once, before the others; None: nothing is.
    """

    name: str
    runs: Callable[[Settings], Iterator[Run]]
    shows: str
    calibrate: Settings | None = None

    @property
    def calibrated_as(self) -> str:
        """Under what name a calibration is kept: plans of one task share it."""
        return Path((self.calibrate or {}).get("task.train", self.name)).parent.name


class Files:
    """The data files of the plans, in a folder that has the same path in every call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str) -> dict[str, str]:
        """task.train, task.test and task.validation of a set, which is written there."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        source = next(at / name for at in (data_dir(), data.DATA) if (at / name).is_dir())
        for file in sorted(source.glob("*.jsonl")):
            (folder / file.name).write_bytes(file.read_bytes())
        return data.files(folder)


def plans(files: Files, model: str) -> dict[str, Plan]:
    """All plans by name, the most valuable first; model: its name, for runs of several models."""
    sums = {**COMMON, **files.of("arithmetic"), "task.name": "numeric"}
    chain = {
        **COMMON,
        **files.of("chain_sum"),
        "task.name": "evidence_task:ChainSum",
        "task.max_new_tokens": 32,  # for the problem with its answer behind it
    }
    short = {**chain, **files.of("chain_sum_short")}
    brief = {**COMMON, **files.of("brevity"), "task.batch": 16, "task.max_new_tokens": 64}
    paper = {**COMMON, "task.batch": None, "evolution.population": 62, "task.max_new_tokens": 64}
    found = [
        Plan(
            "arithmetic",
            lambda best: seeds("arithmetic", "calibrated", SEEDS, {**sums, **best}, 100, 0.55),
            "defaults after calibrate alone, five seeds, held-out arithmetic",
            sums,
        ),
        Plan("brevity", lambda best: brevity({**brief, **best}), "many short questions"),
        Plan("conciseness", lambda best: conciseness({**paper, **best}), "the paper's 2 + 8 questions"),
        Plan(
            "chain_sum",
            lambda best: seeds("chain_sum", "defaults", SEEDS, {**chain, **best}, 60, 0.5),
            "reasoning-gym's chain_sum, five seeds",
        ),
        Plan("newcomer", lambda best: newcomer(model), "`es-ray run --model DIR` and no other option"),
        Plan("map", lambda best: noise_map(sums), "relative noise x learning rate, both forms"),
        Plan("alternatives", lambda best: alternatives({**sums, **best}), "what helps", sums),
        Plan("forms", lambda best: forms(sums), "full rank against adapters, as many completions each"),
        Plan(
            "chain_sum_short",
            lambda best: seeds("chain_sum_short", "defaults", SEEDS[:3], {**short, **best}, 60, 0.5),
            "chain_sum with 2 or 3 numbers of 1 or 2 digits",
        ),
        Plan(SMOKE, lambda best: smoke(), "whether everything runs; not part of `all`"),
    ]
    return {plan.name: plan for plan in found}


def seeds(
    plan: str, setting: str, numbers: tuple[int, ...], settings: Settings, generations: int, each: float
) -> Iterator[Run]:
    """A run for each seed; each: seconds of a generation."""
    for seed in numbers:
        changed = {**settings, "evolution.seed": seed, "evolution.generations": generations}
        yield Run(f"{plan}/{setting}/{seed}", changed, generations * each + 1.5)


def brevity(base: Settings) -> Iterator[Run]:
    """The reward is length alone, so the guard must keep the answers; or a wrong answer costs 50."""
    penalty = {"task.name": "evidence_task:Brevity"}
    ways = {
        "rollback": {"guard.action": "rollback"},
        "penalty": {**penalty, "guard.action": "rollback"},
        "no guard": {"guard.action": "warn"},
    }
    for way, changes in ways.items():
        yield from seeds("brevity", way, SEEDS[: 1 if way == "no guard" else 3], base | changes, 50, 0.5)


def conciseness(base: Settings) -> Iterator[Run]:
    """With the guard, then without: `warn` changes nothing of what a run does."""
    for way, action in (("rollback", "rollback"), ("no guard", "warn")):
        yield from seeds("conciseness", way, SEEDS, {**base, "guard.action": action}, 50, 0.25)


def smoke() -> Iterator[Run]:
    """A few short runs that differ in what an engine must not depend on."""
    tiny = {
        "evolution.population": 4,
        "evolution.generations": 5,
        "evolution.update_scale": "sigma",
        "evaluation.kl_every": 3,
        "task.batch": None,
        "task.max_new_tokens": 16,
        RELATIVE: 0.3,
    }
    adam = {"evolution.optimizer": "adam", RATE: 0.3, "lora.form": "both", "guard.action": "rollback"}
    yield Run("smoke/adam, both/7", {**tiny, **adam, "evolution.seed": 7}, 3)
    plain = {RATE: 1.0, "lora.form": "b", "evolution.seed": 8, "task.max_new_tokens": 12}
    yield Run("smoke/form b/8", {**tiny, **plain}, 3)


def newcomer(model: str) -> Iterator[Run]:
    """Nothing but the model: population, batch, tokens and generations are the defaults."""
    yield Run(f"newcomer/{model}/0", {}, 50 * 0.3)


LENGTH: Final = 40
"""Generations of an alternative."""


def alternatives(base: Settings) -> Iterator[Run]:
    """One change each, over what was calibrated; two seeds."""
    rate, relative = base.get(RATE, 1.0), base.get(RELATIVE, 0.03)
    cosine = {"kind": "cosine", "to": 0.1, "over": LENGTH}
    # by its normalisation Adam's step is about 8 = sqrt(64) times that of a mean over 64 members
    adam = {"evolution.optimizer": "adam", RATE: rate / 8}
    changes: dict[str, Settings] = {
        "as calibrated": {},
        "form both": {"lora.form": "both", RELATIVE: relative * 0.0125 / 0.03},
        "adam": adam,
        "momentum 0.9": {"evolution.optimizer": "momentum", "evolution.momentum": 0.9, RATE: rate / 4},
        "cosine learning rate": {"evolution.learning_rate_schedule": cosine},
        "decay 0.02": {"evolution.weight_decay": 0.02},
        "prompt normalization": {"evolution.prompt_normalization": "zscore"},
        "learning rate x 2": {RATE: rate * 2},
        "learning rate / 2": {RATE: rate / 2},
        "noise linear to half": {"evolution.noise.schedule": {"kind": "linear", "to": 0.5, "over": LENGTH}},
        "centered ranks": {"evolution.shaping": "centered-rank"},
        "tie correction": {"evolution.tie_correction": True},
        "adam, cosine": {**adam, "evolution.learning_rate_schedule": cosine},
        "no pairs": {"evolution.antithetic": False},
    }
    for seed in (201, 202):  # all settings once, before any is tried again
        for name, change in changes.items():
            yield from seeds("alternatives", name, (seed,), {**base, **change}, LENGTH, 0.45)


FORMS: Final[Mapping[str, Settings]] = {
    "merged": {"lora.form": "merged", RELATIVE: 0.03},
    "b": {"lora.form": "b", RELATIVE: 0.03},
    "both": {"lora.form": "both", RELATIVE: 0.0125},
}
"""Members as far from the centre as each other, by the general defaults."""


def forms(base: Settings) -> Iterator[Run]:
    """Three seeds of each, then one three times as long, and merged weights that decay."""
    common = {**base, "evolution.update_scale": "sigma", RATE: 1.0, "evaluation.kl_every": 10}
    for name, changes in FORMS.items():
        yield from seeds("forms", name, (211, 212, 213), {**common, **changes}, 100, 0.5)
    for name, changes in FORMS.items():
        yield from seeds("forms", f"{name}, long", (211,), {**common, **changes}, 300, 0.5)
    decayed = {**common, **FORMS["merged"], "evolution.weight_decay": 0.01}
    yield from seeds("forms", "merged, long, decay 0.01", (211,), decayed, 300, 0.5)


RELATIVES: Final = {"b": (0.003, 0.01, 0.03, 0.1, 0.3), "both": (0.004, 0.0125, 0.04, 0.12)}
RATES: Final = (0.25, 1.0, 2.0, 4.0)


def noise_map(base: Settings) -> Iterator[Run]:
    """Fifteen generations of 64 x 16 each; the outer learning rates last, if the time ends early."""
    cells = [(form, relative, rate) for form in RELATIVES for relative in RELATIVES[form] for rate in RATES]
    cells.sort(key=lambda cell: cell[2] in (RATES[0], RATES[-1]))
    for form, relative, rate in cells:
        settings = {
            **base,
            "task.batch": 16,
            "lora.form": form,
            RELATIVE: relative,
            RATE: rate,
            "evaluation.every": 15,  # the base model, and the last centre at the end
            "evaluation.kl_every": 14,
            "evolution.generations": 15,
            "evolution.seed": 301,
        }
        yield Run(f"map/{form}, {relative:g}, {rate:g}/301", settings, 15 * 0.25 + 1.5)
