r"""Your own engine: it looks its answers up in a table, and loads no model.

    es-ray run --local --engine examples/table_engine.py:SPEC --generations 10

evolves adapters of the bundled model without its weights. Each prompt has a short and a long answer; a member
gives the short one where the entry of its vector with the prompt's number in the table is positive. The
reward asks for short answers, so within a few generations the centre is positive there. For a table of your
own, copy this file and change its last line to

    SPEC = table_spec(Path(__file__).with_name("answers.json"))

with answers.json like {"a prompt": ["a short answer", "a long one"], ...}. `es_ray.engines.base.Engine` says
what an engine must do, `es_ray.engines.spec.EngineSpec` what it declares before it is loaded.
With Ray (`--workers 2`) each worker reads this file, under the same path.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from es_ray.config import Config, EngineConfig
from es_ray.engines.base import BASE, CENTRE, Completion, Engine, EngineInfo, OnCompletion, Row, Variant
from es_ray.engines.spec import EngineSpec
from es_ray.errors import EvaluationError, UserError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment

Table = Mapping[str, Sequence[str]]

ANSWERS: Table = {
    "Solve: 3 + 5 =": ("8", "The sum of 3 and 5 is 8."),
    "If all birds can fly and penguins are birds, can penguins fly?": ("No", "No, penguins cannot fly."),
    "What is the capital of France?": ("Paris", "The capital of France is Paris."),
    "Calculate: 12 × 7 =": ("84", "12 times 7 is 84."),
    'Is the statement "All cats are mammals" true or false?': ("True", "All cats are mammals: true."),
    "What comes next in the sequence: 2, 4, 6, 8, ?": ("10", "After 8 comes 10."),
    'Translate "Hello" to Spanish:': ("Hola", "In Spanish one says Hola."),
    "What is 15% of 200?": ("30", "15% of 200 is 30."),
    "Name one primary color:": ("Red", "One of the primary colors is red."),
    "How many days are in a week?": ("7", "A week has 7 days."),
    "What is the capital of Portugal?": ("Lisbon", "The capital of Portugal is Lisbon."),
    "Calculate: 6 × 9 =": ("54", "6 times 9 is 54."),
    'Is the statement "All sharks are birds" true or false?': ("False", "All sharks are birds: false."),
    "What comes next in the sequence: 3, 6, 9, 12, ?": ("15", "After 12 comes 15."),
    'Translate "Water" to Italian:': ("Acqua", "In Italian one says Acqua."),
    "What is 25% of 80?": ("20", "25% of 80 is 20."),
    "Name one planet:": ("Mars", "One of the planets is Mars."),
    "How many legs are on a spider?": ("8", "A spider has 8 legs."),
}
"""A short and a long answer to each prompt of the task `conciseness-validated`."""

MEAN_ABS = 0.02
"""Stands for mean|W| of each adapted layer, with which per-layer noise is scaled."""
NORM = 1.0
"""Stands for ||W||_F of each, with which relative noise is scaled."""


class TableEngine(Engine):
    """Answers with table[prompt][0] or [1]; table: a short and a long answer for each prompt."""

    def __init__(self, experiment: Experiment, table: Table) -> None:
        source = experiment.source  # the model's configuration and tokenizer, which need no weights
        stop = min(source.stop_ids())
        self._max_new_tokens = experiment.config.task.max_new_tokens
        self._size = experiment.layout.size
        chats = [[{"role": "user", "content": prompt}] for prompt in table]
        self._numbers = {tuple(source.chat_ids(chat)): number for number, chat in enumerate(chats)}
        self._answers = [
            [[*source.tokenizer(text, add_special_tokens=False)["input_ids"], stop] for text in answers]
            for answers in table.values()
        ]
        modules = experiment.layout.modules
        self.info = EngineInfo(
            mean_abs=(MEAN_ABS,) * len(modules),
            frobenius=(NORM,) * len(modules),
            parameters=0,
            device="cpu",
            dtype="float32",
        )

    def generate(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        *,
        log_probs: bool = False,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """The answers, cut at task.max_new_tokens; `sampling` changes nothing: a table draws no tokens."""
        if log_probs:
            raise EvaluationError("TableEngine gives no log-probabilities")
        vectors: dict[Variant, Vector | None] = {}
        completions = []
        for place, row in enumerate(rows):
            variant = row.variant
            if variant not in vectors:
                vectors[variant] = _vector(centres, perturbation, variant)
            completion = self._completion(row, vectors[variant])
            completions.append(completion)
            if on_completion is not None:
                on_completion(place, completion)
        return completions

    def close(self) -> None:
        """There is nothing to free."""

    def _completion(self, row: Row, vector: Vector | None) -> Completion:
        if row.prompt_ids not in self._numbers:
            raise EvaluationError(f"{row.variant}: the table has no answer for one of its prompts")
        number = self._numbers[row.prompt_ids]
        short = vector is not None and vector[number % self._size] > 0
        token_ids = self._answers[number][0 if short else 1]
        if len(token_ids) > self._max_new_tokens:
            return Completion(token_ids[: self._max_new_tokens], "length")
        return Completion(list(token_ids), "stop")


def _vector(centres: Sequence[Vector], perturbation: Perturbation, variant: Variant) -> Vector | None:
    """The entries of the variant's adapters, shape [P]; the base model has none."""
    if variant.member == BASE:
        return None
    centre = centres[variant.centre]
    if variant.member == CENTRE:
        return centre
    return perturbation.member(centre, variant.generation, variant.member, variant.sigma_factor)


def table_spec(table: Table | Path) -> EngineSpec:
    """The engine of a table, or of a JSON file that holds one."""

    def read() -> Table:
        if not isinstance(table, Path):
            return table
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{table}: cannot be read as JSON: {error}") from error
        if not isinstance(content, dict) or not all(map(_is_pair, content.values())):
            raise UserError(f"{table}: must be an object with a short and a long answer for each prompt")
        return content

    def check(config: Config, hosted: bool) -> None:
        known = read()
        for split, examples in Experiment(config).examples.items():
            for example in examples:
                if example.prompt not in known:
                    raise UserError(f"task.{split}: the table has no answers to {example.prompt!r}")

    def load(experiment: Experiment) -> Engine:
        return TableEngine(experiment, read())

    def gpus(engine: EngineConfig, available: bool) -> int:
        return 0

    return EngineSpec("table", load, gpus, check=check, weights_in_memory=False, log_probs=False)


def _is_pair(answers: object) -> bool:
    return isinstance(answers, list) and len(answers) == 2 and all(isinstance(text, str) for text in answers)


SPEC = table_spec(ANSWERS)
