"""A command on a terminal of its own, and what it shows there."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

from tests.drivers import Drivers

_CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
ENVIRONMENT = {"COLUMNS": None, "TERM": "xterm-256color"}


def on_terminal(words: Sequence[str], columns: int) -> tuple[int, str, list[str]]:
    """Exit code, all that was written, and its lines without codes, those that were written over too."""
    environment = os.environ | ENVIRONMENT

    def run(terminal: int) -> int:
        names = {name: value for name, value in environment.items() if value is not None}
        return subprocess.run(words, env=names, stdin=terminal, stdout=terminal, stderr=terminal).returncode

    return _shown(run, columns)


def driver_on_terminal(
    drivers: Drivers, arguments: Sequence[object], columns: int, cwd: Path
) -> tuple[int, str, list[str]]:
    """The same of one of the drivers."""

    def run(terminal: int) -> int:
        options = {"terminal": os.ttyname(terminal), "cwd": cwd, "environment": ENVIRONMENT}
        return drivers(*arguments, **options).code

    return _shown(run, columns)


def _shown(run: Callable[[int], int], columns: int) -> tuple[int, str, list[str]]:
    """What is written while `run` uses a terminal of so many columns."""
    mine, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written: list[str] = []

    def read() -> None:
        ended = contextlib.suppress(OSError)  # as which a terminal's end is read
        with open(mine, encoding="utf-8", errors="replace", newline="") as terminal, ended:
            written.extend(iter(terminal.readline, ""))

    reader = Thread(target=read)
    reader.start()
    try:
        code = run(theirs)
    finally:
        os.close(theirs)
        reader.join(60)
    text = "".join(written)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", _CODES.sub("", text))]
    return code, text, lines
