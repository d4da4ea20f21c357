"""The transformers engine: any Hugging Face causal model with linear projections."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from es_ray.engines.base import (
    BASE,
    CENTRE,
    Completion,
    Engine,
    EngineInfo,
    OnCompletion,
    Row,
    Variant,
)
from es_ray.engines.hf.allocator import keep_freed_memory
from es_ray.engines.hf.cpu_dtype import multiplies_in
from es_ray.engines.hf.decoding import decode
from es_ray.engines.hf.forked import forked_copies
from es_ray.engines.hf.log_probs import NonFiniteLogits, continuation_log_probs
from es_ray.engines.hf.output_layer import prepare_output_layer
from es_ray.engines.hf.population_linear import PopulationAdapters
from es_ray.engines.merged_centre import MergedCentre
from es_ray.engines.merged_weights import AdaptedWeight, MergedWeights
from es_ray.engines.weight_sums import abs_sum, square_sum
from es_ray.errors import EvaluationError, RunError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment


class TransformersEngine(Engine):
    """All rows of a call run in one batch, each with the adapter of its variant."""

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config
        self._threads_before = torch.get_num_threads()
        self._deterministic_before = torch.are_deterministic_algorithms_enabled()
        if config.engine.threads != "auto":  # resolve_config settles it; scripts may leave it to torch
            torch.set_num_threads(config.engine.threads)
        if config.engine.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
            torch.use_deterministic_algorithms(True)
        try:
            self._load(experiment)
        except BaseException:
            self._restore_settings()
            raise

    def _load(self, experiment: Experiment) -> None:
        config = experiment.config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_freed_memory()
        source = experiment.source
        dtype = config.model.dtype if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
        logging.disable_progress_bar()  # one per engine would clutter the terminal
        try:
            model = AutoModelForCausalLM.from_pretrained(source.path, revision=source.revision, dtype=dtype)
            slow = dtype == "auto" and device == "cpu" and not multiplies_in(model.dtype)
            model = model.float() if slow else model.to(device)
        except torch.OutOfMemoryError as error:
            raise RunError(f"out of memory while loading {source.path} on {device}") from error
        except Exception as error:  # torn files raise errors of many libraries
            raise source.unusable(error) from error
        self._model = model.eval().requires_grad_(False)
        self._layout = experiment.layout
        self.stop_ids = source.stop_ids()
        self._max_new_tokens = config.task.max_new_tokens
        names = [module.name for module in self._layout.modules]
        layers = [self._model.get_submodule(name) for name in names]
        weights = [layer.weight for layer in layers]
        self.info = EngineInfo(
            mean_abs=tuple(abs_sum(weight) / weight.numel() for weight in weights),
            frobenius=tuple(math.sqrt(square_sum(weight)) for weight in weights),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            dtype=str(model.dtype).removeprefix("torch."),
        )
        self._adapters = PopulationAdapters(self._model, names, self._layout.scaling)
        self._merged = _merged_centre(weights, experiment) if self._layout.form == "merged" else None
        prepare_output_layer(self._model)
        # the last step: a copy has what there is by now
        self._copies = forked_copies(config, self._generate) if device == "cpu" else []
        self.beside = len(self._copies)

    def begin(self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]) -> bool:
        """See Engine: in a copy of this process, if one has nothing to do."""
        given = (centres, perturbation, rows)
        return any(copy.has_begun(*given) for copy in self._copies) or any(
            copy.begin(*given) for copy in self._copies
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
        """Completions of the rows, in their order, as one batch; in form `merged` one for each centre."""
        begun = [copy for copy in self._copies if copy.has_begun(centres, perturbation, rows)]
        if begun and not log_probs:
            return begun[0].collect(on_completion)
        return self._generate(centres, perturbation, rows, log_probs=log_probs, on_completion=on_completion)

    @torch.inference_mode()
    def _generate(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        *,
        log_probs: bool = False,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        found: dict[int, Completion] = {}
        for numbers in self._batches(centres, perturbation, rows):
            asked = [rows[number] for number in numbers]

            def report(row: int, completion: Completion, numbers: Sequence[int] = numbers) -> None:
                assert on_completion is not None
                on_completion(numbers[row], completion)

            with self._adapted(centres, perturbation, asked):
                completions = decode(
                    self._model,
                    [row.prompt_ids for row in asked],
                    self.stop_ids,
                    self._max_new_tokens,
                    self._adapters,
                    samplings=[row.sampling for row in asked],
                    log_probs=log_probs,
                    on_completion=None if on_completion is None else report,
                )
            found |= zip(numbers, completions, strict=True)
        return [found[number] for number in range(len(rows))]

    @torch.inference_mode()
    def log_probs(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        continuations: Sequence[Sequence[int]],
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given tokens after each row's prompt, in batches as `generate`."""
        found: dict[int, NDArray[np.float32]] = {}
        for numbers in self._batches(centres, perturbation, rows):
            asked, given = [rows[number] for number in numbers], [continuations[number] for number in numbers]
            with self._adapted(centres, perturbation, asked):
                prompts = [row.prompt_ids for row in asked]
                of_rows = continuation_log_probs(self._model, prompts, given, self._adapters)
            found |= zip(numbers, of_rows, strict=True)
        return [found[number] for number in range(len(rows))]

    def drift(self, centre: NDArray[np.float64], perturbation: Perturbation) -> float:
        """See Engine."""
        if self._merged is None:
            return super().drift(centre, perturbation)
        return self._merged.drift(centre, perturbation)

    def change(
        self, centre: NDArray[np.float64], perturbation: Perturbation, number: int
    ) -> NDArray[np.float32]:
        """See Engine."""
        if self._merged is None:
            return super().change(centre, perturbation, number)
        return self._merged.change(centre, perturbation, number)

    def checksum(self) -> int | None:
        """See Engine."""
        return None if self._merged is None else self._merged.checksum()

    def close(self) -> None:
        """Drop the model and restore the process's settings."""
        for copy in self._copies:
            copy.close()
        del self._model, self._adapters, self._merged
        self._restore_settings()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restore_settings(self) -> None:
        torch.set_num_threads(self._threads_before)
        torch.use_deterministic_algorithms(self._deterministic_before)

    def _batches(
        self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]
    ) -> Iterator[list[int]]:
        """The numbers of rows that the same weights answer, which the model has by then."""
        if self._merged is None:
            if rows:
                yield list(range(len(rows)))
            return
        yield from self._merged.batches(centres, perturbation, rows)

    @contextmanager
    def _adapted(
        self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]
    ) -> Iterator[None]:
        """The model with each row's adapter; errors name the variant or the remedy."""
        try:
            variants = list(dict.fromkeys(row.variant for row in rows))
            vectors = torch.from_numpy(variant_vectors(centres, perturbation, variants))
            number_of = {variant: number for number, variant in enumerate(variants)}
            matrices = self._layout.matrices(vectors.to(self._model.device))
            self._adapters.write(matrices, [number_of[row.variant] for row in rows])
            yield
        except NonFiniteLogits as error:
            who = rows[error.row].variant
            raise EvaluationError(f"{who}: the model's logits are not finite") from error
        except torch.OutOfMemoryError as error:
            raise EvaluationError(
                f"out of GPU memory with {len(rows)} rows at once; lower engine.shard"
            ) from error
        finally:
            self._adapters.clear()


def _merged_centre(weights: Sequence[Any], experiment: Experiment) -> MergedCentre:
    layout = experiment.layout
    parts = iter(layout.tensors)  # A and B in turns
    adapted = [AdaptedWeight(weight.data, a, b) for weight, a, b in zip(weights, parts, parts, strict=True)]
    return MergedCentre(MergedWeights(adapted, layout.scaling), experiment.checkpoints)


def variant_vectors(
    centres: Sequence[Vector], perturbation: Perturbation, variants: Sequence[Variant]
) -> Vector:
    """The variants' flat vectors, shape [N, P]; the base model's is zero."""
    vectors = np.zeros((len(variants), perturbation.size), dtype=np.float32)
    members: dict[tuple[int, int], list[int]] = {}  # by generation and centre: those are built together
    for number, variant in enumerate(variants):
        if variant.member == CENTRE:
            if not perturbation.fresh:  # whose centre is the model's weights
                vectors[number] = centres[variant.centre]
        elif variant.member != BASE:
            members.setdefault((variant.generation, variant.centre), []).append(number)
    for (generation, centre), numbers in members.items():
        vectors[numbers] = perturbation.members(
            centres[centre],
            generation,
            [variants[number].member for number in numbers],
            [variants[number].sigma_factor for number in numbers],
        )
    return vectors
