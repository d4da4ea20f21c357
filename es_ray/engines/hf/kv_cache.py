"""A key-value cache that grows in place; transformers copies its own at every token."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_SPARE = 64  # tokens that a new buffer has space for beyond what it must hold


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, [rows, heads, tokens, size]: views of buffers with space for more."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, Tensor] = {}
        self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the tokens' keys and values; returns all that are cached."""
        length = self._length
        self.keys = self._appended("keys", key_states, length)
        self.values = self._appended("values", value_states, length)
        self._length += key_states.shape[-2]
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Drop all rows but these."""
        super().batch_select_indices(indices)
        self._buffers.clear()

    def _appended(self, name: str, new: Tensor, length: int) -> Tensor:
        total = length + new.shape[-2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[-2] < total:
            room, size = total + _SPARE, new.shape[-1]
            buffer = new.new_empty(*new.shape[:-2], room, size)
            if length:
                buffer[..., :length, :] = getattr(self, name)
            self._buffers[name] = buffer
        buffer[..., length:total, :] = new
        return buffer[..., :total, :]


def can_repeat(cache: DynamicCache) -> bool:
    """Whether rows of this cache may be copied: all layers keep every token."""
    return all(type(layer) is GrowingLayer for layer in cache.layers)


def growing_cache(config: Any) -> DynamicCache:
    """A cache for a model of this configuration; other kinds of layers (sliding windows) stay unchanged."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
