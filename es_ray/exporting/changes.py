"""By how much an exported model differs from the base model, and the adapter nearest to that."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from es_ray.errors import UserError
from es_ray.exporting.chosen import Chosen
from es_ray.lora.checkpoints import Checkpoints
from es_ray.lora.layout import LoraLayout
from es_ray.lora.merged_changes import total_change

if TYPE_CHECKING:
    from torch import Tensor

OVERSAMPLES, POWERS = 8, 4
"""Further random directions, and power iterations, of a truncated decomposition (arXiv 0909.4061)."""
SEED: Final = 0


class WeightChange(NamedTuple):
    """W becomes W + scaling * product(): shape [out, in]; product: float32, made when it is asked for."""

    shape: tuple[int, int]
    product: "Callable[[], Tensor]"
    scaling: float


class NearestAdapter(NamedTuple):
    """The adapter of a rank that is nearest to changes, and the share of their norm that it has."""

    layout: LoraLayout
    vector: Any
    share: float


def weight_changes(chosen: Chosen) -> dict[str, WeightChange]:
    """Of each adapted module, by its name. Raises RunError for what cannot be read."""
    layout = chosen.past.experiment.layout
    if layout.form != "merged":
        matrices = layout.matrices(chosen.vector())
        return {
            name: WeightChange((b.shape[0], a.shape[1]), partial(_product, a, b), layout.scaling)
            for name, (a, b) in matrices.items()
        }
    past = chosen.past
    before = chosen.index is not None or chosen.generation < 0
    history: Any = past.centre_before() if before else past.centre()
    own = None if chosen.index is None else layout.matrices(past.member(chosen.index))
    perturbation = past.strategy.perturbation
    checkpoints = Checkpoints(past.run.generations, layout)
    checkpoint = next(checkpoints.before(history, perturbation), None)
    found = {}
    for number, module in enumerate(layout.modules):
        updates = partial(total_change, history, perturbation, layout, number, checkpoint)
        product = updates if own is None else partial(_of_member, updates, *own[module.name], layout.scaling)
        found[module.name] = WeightChange((module.out_features, module.in_features), product, 1.0)
    return found


def nearest_adapter(changes: Mapping[str, WeightChange], layout: LoraLayout, rank: int) -> NearestAdapter:
    """By a randomised singular value decomposition of each change; raises UserError for too high a rank."""
    import torch

    most = min(min(change.shape) for change in changes.values())
    if not 1 <= rank <= most:
        raise UserError(f"--rank {rank}: must be 1 to {most}, the smallest side of a changed matrix")
    wanted = LoraLayout(rank, float(rank), layout.modules, "both")
    vector = np.zeros(wanted.size, dtype=np.float32)
    kept, whole = [], []
    for name, (a, b) in wanted.matrices(vector).items():
        change = changes[name].scaling * changes[name].product()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            u, s, v = torch.svd_lowrank(change, q=min(rank + OVERSAMPLES, *change.shape), niter=POWERS)
        root = s[:rank].sqrt()
        a[:] = (root[:, None] * v[:, :rank].T).numpy()
        b[:] = (u[:, :rank] * root).numpy()
        kept.append(float(s[:rank].double().square().sum()))
        whole.append(float(change.double().square().sum()))
    norm = math.fsum(whole)
    return NearestAdapter(wanted, vector, math.sqrt(math.fsum(kept) / norm) if norm else 1.0)


def _product(a: Any, b: Any) -> "Tensor":
    import torch

    return torch.from_numpy(b.copy()) @ torch.from_numpy(a.copy())


def _of_member(updates: "Callable[[], Tensor]", a: Any, b: Any, scaling: float) -> "Tensor":
    return updates() + scaling * _product(a, b)
