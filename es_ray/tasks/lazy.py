"""Examples that are made when they are read, so that their number costs nothing."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from es_ray.tasks.base import Example


class LazyExamples(Sequence[Example]):
    """`size` examples, made one by one.

    make: the example of an index from 0; it must give the same one each time. origin: whatever determines
    all of them, plain values by name; `fingerprint`, a SHA-256, is that of size and origin.
    """

    def __init__(self, size: int, make: Callable[[int], Example], origin: Mapping[str, Any]) -> None:
        self._size, self._make = size, make
        text = json.dumps({"size": size, **origin}, sort_keys=True, separators=(",", ":"), default=repr)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]  # no slices
        if not -self._size <= index < self._size:
            raise IndexError(index)
        return self._make(index % self._size)
