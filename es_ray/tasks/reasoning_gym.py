"""Any of reasoning-gym's hundred generators, with its own scorer (`pip install 'es-ray[reasoning-gym]'`).

    es-ray run --task reasoning-gym --set task.options.dataset=chain_sum --set task.batch=32

The generator chain_sum asks "State the final answer to the following arithmetic problem: 4 + 3 =". Its scorer
gives 1 for the answer alone, and for one within other text the answer's share of the characters, which is the
dense part; most generators have one of their own kind. Further options go to the generator:
`--set task.options.max_terms=3`.

    >>> task = ReasoningGym("chain_sum", seed=42)
    >>> task.train[0].prompt, task.train[0].target
    ('State the final answer to the following arithmetic problem: 4 + 3 =', '7')
    >>> task.score(task.train[0], "Seven: <answer>7</answer>")
    Score(reward=1.0, metrics={'correct': True, 'format': True, 'readable': True})
    >>> task.score(task.train[0], "It is 7.")
    Score(reward=0.125, metrics={'correct': False, 'format': False, 'readable': True})
"""

import difflib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.lazy import LazyExamples
from es_ray.tasks.options import whole
from es_ray.tasks.tags import last_between

APART = 1_000_000_000
"""From the seed of the training examples to that of the test examples, far more than there are of either."""


class ReasoningGym(Task):
    """Reward: what the generator's `score_answer` gives, from 0 to 1.

    dataset: the generator; train_size, test_size: how many examples; seed: of the training examples; all
    further options go to the generator. The test examples are of a seed far from it, as most generators make
    item i of a seed from the number seed + i; one with few puzzles may repeat some all the same. The answer
    is what stands in the last <answer> tags, else the whole completion. Metrics: correct (a score of 1);
    format (there were such tags); readable (0 where the scorer raised an error over an ill-formed answer,
    which earns 0).
    """

    def __init__(
        self,
        dataset: str | None = None,
        train_size: int = 1000,
        test_size: int = 100,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self._dataset, self._options = _known(dataset), options
        sizes = {"train": train_size, "test": test_size}
        self._sizes = {split: whole(f"{split}_size", size, 1) for split, size in sizes.items()}
        self._seed = whole("seed", seed, 0)
        for taken in {"size"} & options.keys():
            raise UserError(f"task.options.{taken}: set train_size and test_size")
        _ = self._scorer  # bad options are noticed at once

    @property
    def train(self) -> Sequence[Example]:  # type: ignore[override]
        """Examples of the seed."""
        return self._examples("train", self._seed)

    @property
    def test(self) -> Sequence[Example]:  # type: ignore[override]
        """Examples of a seed that shares no item with the training examples."""
        return self._examples("test", self._seed + APART)

    def _examples(self, split: str, seed: int) -> Sequence[Example]:
        size = self._sizes[split]
        items = self._created(seed, size)

        def made(index: int) -> Example:
            item = items[index]
            where = f"{self._dataset}, {split} item {index}"
            return Example(item["question"], item["answer"], item["metadata"], where)

        origin = {"dataset": self._dataset, "options": self._options, "seed": seed}
        return LazyExamples(size, made, origin | {"reasoning-gym": version("reasoning-gym")})

    @cached_property
    def _scorer(self) -> Any:
        return self._created(self._seed, 1)

    def _created(self, seed: int, size: int) -> Any:
        from reasoning_gym import create_dataset

        try:
            return create_dataset(self._dataset, seed=seed, size=size, **self._options)
        except Exception as error:  # whatever a generator raises over its options
            text = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"task.options: {self._dataset} of reasoning-gym refuses them: {text}") from error

    def score(self, example: Example, completion: str) -> Score:
        """Score by the generator's own rule."""
        tagged = last_between(completion, "<answer>", "</answer>")
        answer = completion.strip() if tagged is None else tagged.strip()
        entry = {"question": example.prompt, "answer": example.target, "metadata": dict(example.metadata)}
        try:
            reward, readable = float(self._scorer.score_answer(answer, entry)), True
        except Exception:  # some scorers raise over text that is no answer; `readable` tells
            reward, readable = 0.0, False
        metrics = {"correct": reward >= 1, "format": tagged is not None, "readable": readable}
        return Score(reward, metrics)


def _known(dataset: str | None) -> str:
    """The generator's name. Raises UserError for another one, and if the package is not there."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(
            "task.name: reasoning-gym needs its package: pip install 'es-ray[reasoning-gym]'"
        ) from error
    if dataset in DATASETS:
        return str(dataset)
    near = difflib.get_close_matches(str(dataset), DATASETS, n=5, cutoff=0.5) if dataset else []
    near = near or [name for name in DATASETS if dataset and str(dataset) in name][:5]
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted(DATASETS))}"
    if dataset is None:
        raise UserError(f"task.options.dataset: a generator of reasoning-gym must be named; {hint}")
    raise UserError(f"task.options.dataset: {dataset!r} is no generator of reasoning-gym; {hint}")
