"""A callback for each request of an SGLang call as soon as it has finished."""

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

from es_ray.engines.sglang.requests import OnOutput, Output


class FinishedRequests:
    """Listens to an engine's tokenizer manager, as SGLang's calls return all of their outputs together.

    SGLang waits for each request in `TokenizerManager._wait_one_response`: an asynchronous generator which
    yields the output of a request that is not streamed once, when it has finished.
    """

    def __init__(self, manager: Any) -> None:
        self._on_finished: Callable[[str, Output], None] | None = None
        self._serial = itertools.count()
        wait = manager._wait_one_response

        def wait_one_response(obj: Any, request: Any = None) -> AsyncIterator[Output]:
            # called here, not in the generator: 0.5.23 looks up the request's state when it is called
            return self._told(obj.rid, wait(obj, request))

        manager._wait_one_response = wait_one_response

    def outputs(
        self, call: Callable[..., list[dict[str, Any]]], count: int, on_output: OnOutput
    ) -> list[dict[str, Any]]:
        """What `call(rid=...)` returns, which generates `count` requests; raises what on_output did.

        After an exception in on_output it is not called again, and the exception is raised when the call
        returns: SGLang would go on with the other requests, beside those of the next call.
        """
        ids = [f"es-ray-{next(self._serial)}" for _ in range(count)]
        number_of = {rid: number for number, rid in enumerate(ids)}
        failures: list[Exception] = []

        def on_finished(rid: str, output: Output) -> None:
            number = number_of.pop(rid, None)
            if number is not None and not failures:
                try:
                    on_output(number, output)
                except Exception as error:
                    failures.append(error)

        self._on_finished = on_finished
        try:
            found = call(rid=ids)
        finally:
            self._on_finished = None
        for rid in list(number_of):
            on_finished(rid, found[number_of[rid]])  # which SGLang did not wait for in that way
        if failures:
            raise failures[0]
        return found

    async def _told(self, rid: str, outputs: AsyncIterator[Output]) -> AsyncIterator[Output]:
        async for output in outputs:
            if self._on_finished is not None:
                self._on_finished(rid, output)
            yield output
