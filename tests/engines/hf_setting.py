"""A transformers engine on a small random model, rows for it, and its variants as plain PEFT sees them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import BASE, CENTRE, Engine, Row, Variant
from es_ray.evolution.perturbation import Perturbation
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from tests import plain_peft
from tests.small_models import VOCABULARY

NEW_TOKENS = 14
GENERATION = 3
INDICES = [0, 1, 4, CENTRE, BASE]
LENGTHS = (1, 2, 7, 19, 40)


class Setting(NamedTuple):
    """An engine's experiment with everything that a member is made of."""

    experiment: Experiment
    engine: Engine
    perturbation: Perturbation
    theta: np.ndarray

    def generate(self, asked: list[Row], **options: Any) -> list:
        """The rows' completions, with theta as the only centre."""
        return self.engine.generate([self.theta], self.perturbation, asked, **options)


def setting(folder: Path, lora: dict, **values) -> Setting:
    """Members far enough from the centre, and the centre from the base, that answers differ."""
    usual = {
        "model__path": str(folder),
        "lora": {"form": "both"} | lora,
        "init__std": 0.15,
        "evolution__seed": 4,
        "evolution__noise": {"kind": "constant", "std": 0.25},
        "task__max_new_tokens": NEW_TOKENS,
    }
    experiment = Experiment(Config().replace(**usual | values))
    engine = create_engine(experiment)
    strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    return Setting(experiment, engine, strategy.perturbation, strategy.initial()[THETA])


def prompt_of(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    """A prompt of random tokens."""
    return tuple(int(token) for token in rng.integers(70, VOCABULARY, length))


def rows(lengths=LENGTHS, indices=INDICES) -> list[Row]:
    """Prompts of different lengths for every index, in mixed order, not the same for each."""
    rng = np.random.default_rng(6)
    made = [
        Row(Variant(index, GENERATION), prompt_of(rng, length)) for index in indices for length in lengths
    ]
    return [made[number] for number in rng.permutation(len(made))]


def vector_of(s: Setting, variant: Variant, centres: list[np.ndarray]) -> np.ndarray:
    """The flat vector of the centre or a member, a sigma factor applied to the member's whole distance."""
    centre = centres[variant.centre]
    if variant.member == CENTRE:
        return centre
    member = s.perturbation.member(centre, variant.generation, variant.member)
    if variant.sigma_factor == 1.0:
        return member
    far = member.astype(np.float64) - centre
    return (centre + variant.sigma_factor * far).astype(np.float32)


def reference(s: Setting, variant: Variant, folder: Path, centres: list[np.ndarray] | None = None):
    """The variant as plain PEFT sees it: an adapter on disk, loaded over a fresh base model."""
    source = s.experiment.source.path
    if variant.member == BASE:
        return plain_peft.base_model(source)
    AdapterWriter(s.experiment.layout, source).write(vector_of(s, variant, centres or [s.theta]), folder, "")
    return plain_peft.adapted_model(folder)
