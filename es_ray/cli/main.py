"""The `es-ray` command. Exit codes: 0, 1 (a run failed), 2 (bad input), 130 (Ctrl-C) or 143 (SIGTERM)."""

import atexit
import contextlib
import functools
import gc
import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import typer

from es_ray import __version__
from es_ray.cli.calibrate import calibrate
from es_ray.cli.check_task import check_task
from es_ray.cli.compare import compare
from es_ray.cli.doctor import doctor
from es_ray.cli.evaluate import evaluate
from es_ray.cli.export import export
from es_ray.cli.member import member
from es_ray.cli.plot import plot
from es_ray.cli.report import report
from es_ray.cli.run import run
from es_ray.errors import Interrupted, RunError, UserError
from es_ray.garbage import collector_rests
from es_ray.interrupts import SIGNALS, Terminated, sigterm_as_interrupt

_UsageError: Any = typer.BadParameter.__mro__[
    1
]  # click's, or the one in the copy of click that newer versions of typer contain

_FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""Types of files that hold back what is written to them."""

app = typer.Typer(
    help="Evolution Strategies fine-tuning of language models, through LoRA or into the weights themselves.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with Ctrl-C as an exception for which click prints nothing."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except Terminated as error:
            raise Interrupted(str(error) or "terminated", 143) from None
        except KeyboardInterrupt as error:
            raise Interrupted(str(error) or "interrupted") from None

    return wrapped


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Evolution Strategies fine-tuning of language models, through LoRA or into the weights themselves."""
    if version:
        typer.echo(f"es-ray {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (run, calibrate, check_task, evaluate, compare, member, export, plot, report, doctor):
    starting = collector_rests()(command) if command in (run, calibrate, evaluate) else command  # of engines
    app.command()(interruptible(starting))


def main() -> None:
    """Run a command; show no traceback without --debug."""
    debug = "--debug" in sys.argv
    try:
        with sigterm_as_interrupt():
            code = app(standalone_mode=False) or 0
    except (Interrupted, typer.Abort, KeyboardInterrupt) as error:  # the last: around click
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # the process is ending: ignore further ones
        code, said = (143, "terminated") if isinstance(error, Terminated) else (130, "interrupted")
        code = _failed(getattr(error, "code", code), str(error) or said, debug)
    except UserError as error:
        code = _failed(2, str(error), debug)
    except _UsageError as error:
        code = _failed(2, _usage_message(error), debug)
    except RunError as error:
        again = sys.stderr.isatty()  # bars that were drawn since may have erased it
        code = _failed(1, str(error), debug, error.reported and not again)
    except SystemExit:
        raise
    except BaseException as error:
        code = _failed(1, f"internal error: {type(error).__name__}: {error} (--debug shows where)", debug)
    sys.exit(code)


def script() -> NoReturn:
    """`main` as a process of its own.

    It ends as Python would end it, with threads joined, exit functions called and files written, but leaves
    the modules as they are: to take those of torch and transformers apart takes 2 s, and the system frees
    their memory.
    """
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):  # of a user's task, say
            print(ended.code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined] # as multiprocessing ends its processes
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # as it is where the process was started with the stream closed
                stream.flush()
        except (OSError, ValueError):  # a pipe that nobody reads any more
            code = code or 120  # which is Python's
    _write_open_files()
    os._exit(code)


def _write_open_files() -> None:
    """Write what open files still hold: a user's task may keep one that only Python's own end would close."""
    for found in gc.get_objects():
        if issubclass(type(found), _FILES):
            # which is closed, or has no descriptor; a pipe that nobody reads would never be written
            with contextlib.suppress(OSError, ValueError):
                if stat.S_ISREG(os.fstat(found.fileno()).st_mode):
                    found.flush()


def _usage_message(error: Any) -> str:
    """What is wrong with the command line, with the value that an option's type refused."""
    message = error.format_message()
    given = [e["input"] for e in error.__cause__.errors()] if hasattr(error.__cause__, "errors") else []
    command = error.ctx.command_path if getattr(error, "ctx", None) is not None else "es-ray"
    return f"{message}; got {given[0]!r}" if given else f"{message} ({command} --help)"


def _failed(code: int, message: str, debug: bool, reported: bool = False) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    if not reported:
        print(f"es-ray: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    script()
