"""The changes of matrices that updates of form `merged` add up to, in float32 by torch.

On one kind of device, with equal threads, the same bits: each update is one product over its members, in
their order, and updates are added one after the other.
"""

from typing import TYPE_CHECKING

from es_ray.evolution.merged import History, Update, directions, updates
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.changes_file import DamagedChanges
from es_ray.lora.checkpoints import Checkpoint, warn_of
from es_ray.lora.layout import LoraLayout, LoraTensor

if TYPE_CHECKING:
    from torch import Tensor


def numpy_factors(update: Update, perturbation: Perturbation, tensor: LoraTensor) -> "tuple[Tensor, Tensor]":
    """An A or a B of all D directions of an update, float32, [D, rows, columns], and their weights w, [D]."""
    import torch

    noise, weights = directions(perturbation, update, tensor.start, tensor.stop)
    return torch.from_numpy(noise).view(-1, *tensor.shape), torch.from_numpy(weights)


def add_products(change: "Tensor", a: "Tensor", b: "Tensor", weights: "Tensor", kept: float) -> None:
    """D <- kept D + sum_d w_d B_d A_d, in place: one matrix product over all directions.

    change: D, float32, [out, in]; a: [D, rank, in], which is overwritten; b: [D, out, rank]; weights: [D].
    """
    inputs, outputs = a.shape[-1], b.shape[1]
    a *= weights[:, None, None]
    tall = b.transpose(0, 1).reshape(outputs, -1)
    change.addmm_(tall, a.reshape(-1, inputs), beta=kept)


def total_change(
    history: History,
    perturbation: Perturbation,
    layout: LoraLayout,
    number: int,
    checkpoint: Checkpoint | None = None,
) -> "Tensor":
    """D of the layout's module of that number after all updates, float32, shape [out, in], on the CPU.

    checkpoint: one that the history begins with.
    """
    import torch

    a, b = layout.tensors[2 * number : 2 * number + 2]
    change, done = torch.zeros(b.shape[0], a.shape[1]), 0
    if checkpoint is not None:
        try:
            change, done = torch.from_numpy(checkpoint.matrix(number)), checkpoint.updates
        except DamagedChanges as error:
            warn_of(error)
    for update in updates(history, done):
        wide, weights = numpy_factors(update, perturbation, a)
        tall, _ = numpy_factors(update, perturbation, b)
        add_products(change, wide, tall, layout.scaling * weights, update.kept)
    return change
