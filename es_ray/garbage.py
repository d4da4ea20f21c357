"""Python's garbage collector rests while torch and transformers are imported.

They make a million objects that stay, and the collector would go through them again and again: a seventh of
the processor time that a run takes to begin.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_rests, _frozen = False, False


@contextmanager
def collector_rests() -> Iterator[None]:
    """No garbage is collected in this context until `work_begins`. For processes that es-ray has started."""
    global _rests
    if not gc.isenabled():
        yield
        return
    gc.disable()
    _rests = True
    try:
        yield
    finally:
        gc.enable()
        _rests = False


def work_begins() -> None:
    """Collect garbage again, where `collector_rests` stopped it; what there is by now is never looked at.

    The latter once in a process: a second start has little to import, but garbage of the first.
    """
    global _rests, _frozen
    if not _rests:
        return
    if not _frozen:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else extension modules report what is never freed as leaked
    gc.enable()
    _rests, _frozen = False, True
