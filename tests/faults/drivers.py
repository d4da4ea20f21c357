"""Real driver processes by the hundred: each is a fork of one that has imported everything.

`python -m tests.faults.drivers` takes a JSON line for each driver on standard input, runs it, and answers
with how it ended. It has no threads, as a fork would lack them.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Exited:
    """How a driver ended: its exit code, -9 for kill -9, and what it said."""

    code: int
    out: str
    err: str


class Drivers:
    """Starts drivers, one after the other."""

    def __init__(self, scratch: Path) -> None:
        self._out, self._err = scratch / "out", scratch / "err"
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, **faults: object) -> Exited:
        """Run `es-ray` with the arguments and wait for its end; faults: see `_faults`."""
        assert self._server.stdin and self._server.stdout
        request = {"arguments": [*map(str, arguments)], "out": str(self._out), "err": str(self._err)} | faults
        self._server.stdin.write(json.dumps(request, default=str) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Exited(code, self._out.read_text(), self._err.read_text())

    def close(self) -> None:
        self._server.communicate(timeout=10)


def _faults(
    folder: str = "",
    step: int | None = None,
    stage: str | None = None,
    number: int = signal.SIGKILL,
    trace: str | None = None,
    plots: bool = False,
) -> None:
    from tests.faults import injection
    from tests.no_plots import without_plots

    if not plots:
        without_plots()
    if stage is not None:
        injection.signal_at_stage(stage, number)
    if folder:
        injection.signal_before_step(Path(folder), step, number, None if trace is None else Path(trace))


def _driver(arguments: list[str], out: str, err: str, **faults) -> None:
    from es_ray.cli.main import main

    for file, handle in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # one in the background ignores it
    _faults(**faults)
    sys.argv = ["es-ray", *arguments]
    code: object = 1
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]


def serve() -> None:
    """Fork a driver for each line of standard input."""
    import peft  # noqa: F401
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import es_ray.driver
    import es_ray.runs.recorder
    import es_ray.workers.local  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _driver(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
