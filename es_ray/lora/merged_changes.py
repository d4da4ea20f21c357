"""The changes of matrices that updates of form `merged` add up to, in float32 by torch.

On one kind of device, with equal threads, the same bits: each update is one product over its members, in
their order, and updates are added one after the other.
"""

from typing import TYPE_CHECKING

from es_ray.evolution.merged import History, Update, directions, updates
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.layout import LoraTensor

if TYPE_CHECKING:
    from torch import Tensor


def add_update(
    change: "Tensor", update: Update, perturbation: Perturbation, a: LoraTensor, b: LoraTensor, scaling: float
) -> None:
    """D <- kept D + scaling * sum_d w_d B_d A_d over an update's directions, in place.

    change: D of one matrix, float32, shape [out, in]; a, b: where its A and B are.
    """
    import torch

    of_a, weights = directions(perturbation, update, a.start, a.stop)
    of_b, _ = directions(perturbation, update, b.start, b.stop)
    rank, inputs = a.shape
    wide = torch.from_numpy(of_a).to(change.device).view(-1, rank, inputs)
    wide *= (scaling * torch.from_numpy(weights)).to(change.device)[:, None, None]
    tall = torch.from_numpy(of_b).to(change.device).view(-1, b.shape[0], rank)
    tall = tall.transpose(0, 1).reshape(b.shape[0], -1)
    change.addmm_(tall, wide.view(-1, inputs), beta=update.kept)


def total_change(
    history: History, perturbation: Perturbation, a: LoraTensor, b: LoraTensor, scaling: float
) -> "Tensor":
    """D of one matrix after all updates, float32, shape [out, in]."""
    import torch

    change = torch.zeros(b.shape[0], a.shape[1])
    for update in updates(history):
        add_update(change, update, perturbation, a, b, scaling)
    return change
