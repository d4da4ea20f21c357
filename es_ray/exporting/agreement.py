"""Whether a merged model answers as base model and adapter do, measured on the files that were written.

Of a run of form `merged`, which has no adapter, the base model with the changes added in memory is in its
place. Base model with adapter (plain PEFT) answers some prompts greedily. Both models then read these
answers, and so does the base model alone. What is compared is all logits that the answers' tokens are
chosen by, by their root mean square distance. That of merged and adapter may be a tenth of that of base
and adapter, so that a merge without the adapter, or with another scale, is found whatever the adapter's
size. Besides, it may be what rounding explains: ROUNDING units in the last place of the logits' own size,
in the dtype that the merged weights were rounded to. Tokens say less: where the likeliest one differs,
the two were nearer in the adapter's logits than twice their greatest distance.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from es_ray.errors import RunError
from es_ray.exporting.changes import WeightChange
from es_ray.exporting.chosen import Chosen
from es_ray.exporting.facts import test_results
from es_ray.exporting.weights import weight_files

PROMPTS: Final = 8
NEW_TOKENS: Final = 32
SHARE: Final = 0.1
ROUNDING: Final = 4.0
"""Units in the last place: each layer rounds, and the errors of some dozen layers add up as a random walk."""


@dataclass(frozen=True)
class Agreement:
    """How far apart a merged model and base model with adapter are.

    prompts, tokens: how many were compared; same: tokens that are the likeliest ones of both; distance: root
    mean square of their logits' difference; effect: that of the base model's and the adapter's; allowed: the
    largest distance that passes; rounding: its part for rounding; computed_in: a dtype.
    """

    prompts: int
    tokens: int
    same: int
    distance: float
    effect: float
    allowed: float
    rounding: float
    computed_in: str

    @property
    def alike(self) -> bool:
        """Whether they answer alike."""
        return self.distance <= self.allowed  # false for NaN

    @property
    def is_lost(self) -> bool:
        """Whether the adapter's effect is no larger than what rounding the weights may do."""
        return 0 < self.effect <= self.rounding

    def as_json(self) -> dict[str, Any]:
        """For files and scripts."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.tokens} greedy tokens after {self.prompts} prompts are the same; logits "
            f"are {self.distance:.2g} apart (allowed: {self.allowed:.2g}; base model and adapter: "
            f"{self.effect:.2g}; in {self.computed_in})"
        )


def recorded_prompts(chosen: Chosen) -> list[str]:
    """Some prompts of the run, as its files have them: the data itself may not be on this machine."""
    run = chosen.past.run
    base = test_results(run).get("base", {"examples": []})
    found = dict.fromkeys(example["prompt"] for example in base["examples"][: PROMPTS // 2])
    for generation in run.complete_generations():
        for member in run.generation_folder(generation).population():
            found |= {example["prompt"]: None for example in member.get("examples", ())}
            if len(found) >= PROMPTS:
                return list(found)[:PROMPTS]
    return list(found)


def agreement(
    chosen: Chosen, adapter: Path | Mapping[str, WeightChange], merged: Path, dtype: str
) -> Agreement:
    """Measure it; adapter, merged: the folders; dtype: what the merged weights were rounded to.

    adapter: in form `merged` the changes instead.

    One model at a time is loaded. Raises RunError where a library cannot load one of them.
    """
    import torch

    source = chosen.past.experiment.source
    asked = [source.chat_ids([{"role": "user", "content": text}]) for text in recorded_prompts(chosen)]
    if not asked:
        raise RunError(f"{chosen.past.run.path}: has no recorded prompts to compare the merged model on")
    device, compute = _where(merged)
    new_tokens = min(NEW_TOKENS, chosen.past.config.task.max_new_tokens)
    with torch.inference_mode():
        if isinstance(adapter, Path):
            model = _adapted(source.path, source.revision, adapter, compute, device)
            without = model.disable_adapter
        else:
            model = _loaded(source.path, source.revision, compute, device)
            without = partial(_without, model, _changed(model, adapter))
        answered = [_greedy(model, ids, new_tokens, source.stop_ids()) for ids in asked]
        pairs = list(zip(asked, answered, strict=True))
        wanted = _logits(model, pairs)
        with without():
            base = _logits(model, pairs)
        del model
        gc.collect()
        found = _logits(_loaded(str(merged), None, compute, device), pairs)
    effect, distance = _distance(base, wanted), _distance(found, wanted)
    rounding = ROUNDING * torch.finfo(getattr(torch, dtype)).eps * _size(wanted)
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(found, wanted, strict=True))
    return Agreement(
        prompts=len(asked),
        tokens=sum(map(len, answered)),
        same=same,
        distance=distance,
        effect=effect,
        allowed=SHARE * effect + rounding,
        rounding=rounding,
        computed_in=str(compute).removeprefix("torch."),
    )


def _where(merged: Path) -> tuple[str, Any]:
    """The device, and the dtype to compute in: the files' on a GPU, float32 on a CPU that has room for it."""
    import os

    import torch

    if torch.cuda.is_available():
        return "cuda", "auto"
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = 2 * sum(file.stat().st_size for file in weight_files(merged))  # at most, in float32
    return "cpu", torch.float32 if size < free else "auto"


def _loaded(path: str, revision: str | None, dtype: Any, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} cannot be loaded by transformers: {' '.join(str(error).split())}") from error
    return model.to(device).eval()


def _adapted(path: str, revision: str | None, adapter: Path, dtype: Any, device: str) -> Any:
    import warnings

    from peft import PeftModel

    base = _loaded(path, revision, dtype, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what it calls in transformers will be renamed there
        return PeftModel.from_pretrained(base, adapter).to(device).eval()


def _changed(model: Any, changes: Mapping[str, WeightChange]) -> dict[str, Any]:
    """Add changes to a model's weights; returns these as they were, by the module's name."""
    before = {}
    for name, change in changes.items():
        weight = model.get_submodule(name).weight
        before[name] = weight.clone()
        weight += (change.scaling * change.product()).to(weight.device, weight.dtype)
    return before


@contextmanager
def _without(model: Any, before: Mapping[str, Any]) -> Iterator[None]:
    """The model with the weights of before the changes."""
    after = {name: model.get_submodule(name).weight.clone() for name in before}
    for weights in (before, after):
        for name, weight in weights.items():
            model.get_submodule(name).weight.copy_(weight)
        if weights is before:
            yield


def _greedy(model: Any, ids: Sequence[int], new_tokens: int, stop_ids: frozenset[int]) -> list[int]:
    """The greedy continuation of a prompt, without the generation settings that come with the model."""
    import torch
    from transformers import GenerationConfig

    asked = torch.tensor([list(ids)], device=model.device)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=new_tokens, eos_token_id=sorted(stop_ids) or None, pad_token_id=0
    )
    given, model.generation_config = model.generation_config, settings
    out = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked))
    model.generation_config = given
    found: list[int] = out[0, len(ids) :].tolist()
    return found


def _logits(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Any]:
    """The logits that each token of the answers is chosen by: [tokens, vocabulary] for each, on the CPU."""
    import torch

    found = []
    for ids, answer in pairs:
        read = torch.tensor([[*ids, *answer]], device=model.device)
        logits = model(input_ids=read).logits[0]
        found.append(logits[len(ids) - 1 : len(ids) - 1 + len(answer)].float().cpu())
    return found


def _distance(one: Sequence[Any], other: Sequence[Any]) -> float:
    return _size([a - b for a, b in zip(one, other, strict=True)])


def _size(values: Sequence[Any]) -> float:
    """Root mean square."""
    count = sum(each.numel() for each in values)
    return float((sum(float(each.double().square().sum()) for each in values) / count) ** 0.5)
