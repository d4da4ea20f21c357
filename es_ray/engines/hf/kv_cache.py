"""A key-value cache that grows in place, where transformers' own copies itself at every token."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens that a new buffer has room for beyond what it must hold


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, [rows, heads, tokens, size]: views of buffers with room for more."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: dict[str, Tensor] = {}
        self._held = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the tokens' keys and values; returns all that are held."""
        held = self._held
        self.keys = self._appended("keys", key_states, held)
        self.values = self._appended("values", value_states, held)
        self._held += key_states.shape[-2]
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with some of the rows."""
        super().batch_select_indices(indices)
        self._buffers.clear()

    def _appended(self, name: str, new: Tensor, held: int) -> Tensor:
        total = held + new.shape[-2]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[-2] < total:
            room, size = total + _ROOM, new.shape[-1]
            buffer = new.new_empty(*new.shape[:-2], room, size)
            if held:
                buffer[..., :held, :] = getattr(self, name)
            self._buffers[name] = buffer
        buffer[..., held:total, :] = new
        return buffer[..., :total, :]


def growing_cache(config: Any) -> DynamicCache:
    """A cache for a model of that configuration; layers of other kinds (sliding windows) stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
