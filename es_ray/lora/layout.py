"""The flat vector of all LoRA entries: which linear layers have an adapter, and where their A and B are.

Modules are in the model's order; each has A [rank, in_features], then B [out_features, rank],
row by row. LoRA (Hu et al., arXiv 2106.09685): y = W x + alpha / rank * B A x.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from es_ray.config import LoraConfig, layer_numbers
from es_ray.errors import UserError


@dataclass(frozen=True)
class AdaptedModule:
    """A linear layer with an adapter: its name in the transformers model, its layer and its shape."""

    name: str
    layer: int
    in_features: int
    out_features: int


@dataclass(frozen=True)
class LoraTensor:
    """A or B of one module: its position in the flat vector and its shape."""

    module: AdaptedModule
    matrix: str
    start: int
    stop: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class LoraLayout:
    """Names, shapes and offsets of the flat vector, the same in every form (`lora.form`)."""

    rank: int
    alpha: float
    modules: tuple[AdaptedModule, ...]
    form: str = "both"

    @cached_property
    def tensors(self) -> tuple[LoraTensor, ...]:
        """A and B of every module, in the vector's order."""
        parts, start = [], 0
        for module in self.modules:
            shapes = (("A", (self.rank, module.in_features)), ("B", (module.out_features, self.rank)))
            for matrix, shape in shapes:
                stop = start + shape[0] * shape[1]
                parts.append(LoraTensor(module, matrix, start, stop, shape))
                start = stop
        return tuple(parts)

    @property
    def size(self) -> int:
        """Number of entries of the flat vector, P."""
        return self.tensors[-1].stop

    @property
    def scaling(self) -> float:
        """By which B A is multiplied: alpha / rank; in form `merged` 1 / sqrt(rank)."""
        return self.rank**-0.5 if self.form == "merged" else self.alpha / self.rank

    @property
    def layers(self) -> list[int]:
        """The adapted layers, ascending."""
        return sorted({module.layer for module in self.modules})

    @property
    def stack(self) -> str:
        """The name of the list of layers, `layers` in `model.layers.3.mlp.up_proj`."""
        path = self.modules[0].name.split(".")
        return path[next(i for i, part in enumerate(path) if part.isdecimal()) - 1]

    def matrices(self, theta: Any) -> dict[str, tuple[Any, Any]]:
        """Views (A, B) by module name: [..., rank, in] and [..., out, rank].

        theta: a NumPy array or torch tensor of shape [..., P].
        """
        views = [theta[..., p.start : p.stop].reshape(*theta.shape[:-1], *p.shape) for p in self.tensors]
        return {module.name: (views[2 * i], views[2 * i + 1]) for i, module in enumerate(self.modules)}


def lora_layout(model: Any, config: LoraConfig) -> LoraLayout:
    """The layout for a transformers model (a skeleton is enough).

    Raises UserError for layers or modules that the model lacks, listing those it has.
    """
    import torch

    linears = [
        AdaptedModule(name, layer, module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (layer := _layer(name)) is not None
    ]
    if not linears:
        raise UserError("model.path: the model has no linear projections in numbered layers to adapt")
    layers = sorted({module.layer for module in linears})
    wanted = layer_numbers(config.layers)
    missing = sorted(set(wanted or []) - set(layers))
    if missing:
        raise UserError(
            f"lora.layers: {config.layers} asks for layer {missing[0]}; "
            f"the model has layers {layers[0]}-{layers[-1]}"
        )
    kinds = list(dict.fromkeys(module.name.rsplit(".", 1)[-1] for module in linears))
    for target in config.target_modules:
        if target not in kinds:
            raise UserError(
                f"lora.target_modules: the model has no linear module {target!r}; it has {', '.join(kinds)}"
            )
    chosen = tuple(
        module
        for module in linears
        if (wanted is None or module.layer in wanted)
        and module.name.rsplit(".", 1)[-1] in config.target_modules
    )
    if not chosen:
        raise UserError(
            f"lora.layers: {config.layers}: none of them has one of {', '.join(config.target_modules)}"
        )
    return LoraLayout(config.rank, config.alpha, chosen, config.form)


def _layer(name: str) -> int | None:
    """The number of the transformer layer that a module is in, None outside the stack."""
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return numbers[0] if numbers else None
