"""The centre's or a member's KL to the base model, measured with one engine: only numbers are sent back."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, Engine, Row, Variant
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
    forward: bool = False,
) -> NDArray[np.float64]:
    """Of each row the sum of `kl_terms`, and how many tokens they are, float64, shape [rows, 2].

    theta: the centre, shape [P]; rows: of whose KL it is, sampled at temperature 1; at_once: rows that the
    engine is given at a time; positions: of the model, one of which engines may need after the last scored
    token; forward: whether the base model samples, of whose samples those of the rows' variants are then the
    ratios: KL(base || centre).
    """
    found = np.empty((len(rows), 2), dtype=np.float64)
    for low in range(0, len(rows), at_once):
        asked = rows[low : low + at_once]
        base = [row._replace(variant=Variant(BASE)) for row in asked]
        samplers, readers = (base, asked) if forward else (asked, base)
        completions = engine.generate([theta], perturbation, samplers, log_probs=True)
        given = [
            completion.token_ids[: None if positions is None else positions - 1 - len(row.prompt_ids)]
            for row, completion in zip(asked, completions, strict=True)
        ]
        unsampled = [row._replace(sampling=None) for row in readers]
        read = engine.log_probs([theta], perturbation, unsampled, given)
        for number, (completion, log_probs) in enumerate(zip(completions, read, strict=True), start=low):
            assert completion.log_probs is not None
            terms = kl_terms(log_probs, completion.log_probs[: len(log_probs)])
            found[number] = terms.sum(), len(terms)
        on_rows(low + len(asked))
    return found
