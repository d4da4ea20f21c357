"""A command on a terminal of its own, and what it shows there."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Sequence

_CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


def on_terminal(words: Sequence[str], columns: int, **options) -> tuple[int, str, list[str]]:
    """Exit code, all that was written, and its lines without codes, those that were written over too."""
    mine, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment["TERM"] = "xterm-256color"
    process = subprocess.Popen(words, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    written = []
    ended = contextlib.suppress(OSError)  # as which a terminal's end is read
    with open(mine, encoding="utf-8", errors="replace", newline="") as terminal, ended:
        written.extend(iter(terminal.readline, ""))
    text = "".join(written)
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", _CODES.sub("", text))]
    return process.wait(60), text, lines
