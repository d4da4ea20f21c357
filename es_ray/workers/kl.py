"""The centre's or a member's KL to the base model, measured with one engine: only numbers are sent back."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, Completion, Engine, Row, Variant
from es_ray.evaluation.base_samples import BaseSample
from es_ray.evaluation.kl import kl_terms
from es_ray.evolution.perturbation import Perturbation, Vector


def kl_sums(
    engine: Engine,
    theta: Vector,
    perturbation: Perturbation,
    rows: Sequence[Row],
    at_once: int,
    positions: int | None,
    on_rows: Callable[[int], None],
) -> NDArray[np.float64]:
    """Of each row the sum of `kl_terms`, and how many tokens they are, float64, shape [rows, 2].

    theta: the centre, shape [P]; rows: of whose KL it is, sampled at temperature 1; at_once: rows that the
    engine is given at a time; positions: of the model, one of which engines may need after the last scored
    token.
    """
    found = np.empty((len(rows), 2), dtype=np.float64)
    for low in range(0, len(rows), at_once):
        asked = rows[low : low + at_once]
        base = [row._replace(variant=Variant(BASE), sampling=None) for row in asked]
        completions = engine.generate([theta], perturbation, asked, log_probs=True)
        given = [_that_fits(*each, positions) for each in zip(asked, completions, strict=True)]
        read = engine.log_probs([theta], perturbation, base, given)
        for number, (completion, log_probs) in enumerate(zip(completions, read, strict=True), start=low):
            assert completion.log_probs is not None
            terms = kl_terms(log_probs, completion.log_probs[: len(log_probs)])
            found[number] = terms.sum(), len(terms)
        on_rows(low + len(asked))
    return found


def base_samples(
    engine: Engine, perturbation: Perturbation, rows: Sequence[Row], at_once: int, positions: int | None
) -> list[BaseSample]:
    """What the base model answers, by which `forward_kl_sums` measures.

    rows: of the base model, sampled at temperature 1; the rest as for `kl_sums`.
    """
    found = []
    for low in range(0, len(rows), at_once):
        asked = rows[low : low + at_once]
        for row, completion in zip(
            asked, engine.generate([], perturbation, asked, log_probs=True), strict=True
        ):
            assert completion.log_probs is not None
            token_ids = _that_fits(row, completion, positions)
            found.append(BaseSample(row.prompt_ids, token_ids, completion.log_probs[: len(token_ids)]))
    return found


def forward_kl_sums(
    engine: Engine,
    theta: Vector,
    perturbation: Perturbation,
    variant: Variant,
    samples: Sequence[BaseSample],
    at_once: int,
    on_rows: Callable[[int], None],
) -> NDArray[np.float64]:
    """`kl_sums` of KL(base || variant), on samples of the base model, shape [samples, 2].

    theta: a History; variant: of whose KL it is, and who reads the samples.
    """
    found = np.empty((len(samples), 2), dtype=np.float64)
    for low in range(0, len(samples), at_once):
        given = samples[low : low + at_once]
        rows = [Row(variant, tuple(sample.prompt_ids)) for sample in given]
        read = engine.log_probs([theta], perturbation, rows, [sample.token_ids for sample in given])
        for number, (sample, log_probs) in enumerate(zip(given, read, strict=True), start=low):
            terms = kl_terms(log_probs, sample.log_probs)
            found[number] = terms.sum(), len(terms)
        on_rows(low + len(given))
    return found


def _that_fits(row: Row, completion: Completion, positions: int | None) -> list[int]:
    """The tokens of a completion that can be scored within the model's positions."""
    return completion.token_ids[: None if positions is None else positions - 1 - len(row.prompt_ids)]
