"""Real processes that run `es-ray`, by the hundred: each is a fork of one that has imported everything.

`python -m tests.drivers` takes a JSON line for each driver on standard input, runs it, and answers
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
    """Starts drivers, one after the other; environment: for what is read as a package is imported."""

    def __init__(self, scratch: Path, **environment: str) -> None:
        self._out, self._err = scratch / "out", scratch / "err"
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: object, **options: object) -> Exited:
        """Run `es-ray` with the arguments and wait for its end.

        options: see `_faults`; cwd; environment, where None is for what shall not be in it; terminal: the
        name of one that takes the place of the three standard files.
        """
        assert self._server.stdin and self._server.stdout
        self._out.write_text("")
        self._err.write_text("")
        files = {"out": str(self._out), "err": str(self._err)}
        request = {"arguments": [*map(str, arguments)], **files, **options}
        self._server.stdin.write(json.dumps(request, default=str) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Exited(code, self._out.read_text(), self._err.read_text())

    def close(self) -> None:
        self._server.communicate(timeout=60)


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


def _driver(
    arguments: list[str],
    out: str,
    err: str,
    cwd: str = ".",
    environment: dict[str, str | None] | None = None,
    terminal: str | None = None,
    **faults,
) -> None:
    from es_ray.cli.main import main

    os.chdir(cwd)
    for name, value in (environment or {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    files = {1: out, 2: err} if terminal is None else dict.fromkeys(range(3), terminal)
    for handle, file in files.items():
        os.dup2(os.open(file, os.O_RDWR | os.O_NOCTTY), handle)
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
