"""Many requests as several calls to SGLang at the same time.

SGLang prepares all requests of a call, and sends them to its scheduler together. With parts the scheduler
runs the first ones while others are prepared (benchmarks/NOTES.md).
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

REQUESTS: Final = 256
"""Most requests in one call."""


def generate(engine: Any, **arguments: Any) -> list[dict[str, Any]]:
    """What `sglang.Engine.generate` returns for these arguments; raises what the first part to fail does."""
    task = engine.loop.create_task(_in_parts(engine, arguments))
    try:
        found: list[dict[str, Any]] = engine.loop.run_until_complete(task)
    except BaseException:
        if not task.done():  # an interrupt: nothing of this call may go on in the next one
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                engine.loop.run_until_complete(task)
        raise
    return found


def parts(arguments: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """Arguments of calls of at most `size` requests, from those of one, whose lists have an item of each."""
    return [
        {
            name: value[start : start + size] if isinstance(value, list) else value
            for name, value in arguments.items()
        }
        for start in range(0, len(arguments["input_ids"]), size)
    ]


async def _in_parts(engine: Any, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = [engine.async_generate(**part) for part in parts(arguments, REQUESTS)]
    # an exception is raised when all parts have ended: the others' requests would run beside the next call's.
    # of the part that fails SGLang itself does not wait for the rest
    found: list[dict[str, Any]] = []
    for outputs in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outputs, BaseException):
            raise outputs
        found += outputs
    return found
