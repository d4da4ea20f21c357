"""What the tests use to find processes that are left behind does find them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Command, assert_all_end, offspring

LEAVES_ONE = """
import os, subprocess, sys
own_session, marked = sys.argv[1:]
environment = os.environ if marked == "marked" else {}
subprocess.Popen(["sleep", "61"], start_new_session=own_session == "own-session", env=environment)
"""


@pytest.mark.parametrize("how", [("own-session", "marked"), ("its-session", "unmarked")])
def test_what_a_command_leaves_behind_is_named_and_killed(tmp_path: Path, how: tuple[str, str]):
    with Command([sys.executable, "-c", LEAVES_ONE, *how], tmp_path) as command:
        assert command.end().code == 0
        with pytest.raises(AssertionError, match=r"left behind after 0 s: \['sleep 61'\]"):
            command.assert_none_left(0)
        command.assert_none_left(0, but=("sleep",))
    command.assert_none_left()


def test_what_this_process_leaves_behind_is_named():
    child = subprocess.Popen(["sleep", "61"])
    try:
        with pytest.raises(AssertionError, match=r"left behind after 0 s: \['sleep 61'\]"):
            assert_all_end(lambda: offspring("sleep 61"), 0)
        assert child.pid in {process.pid for process in offspring()}
        assert not offspring("sleep 62")
    finally:
        child.kill()
        child.wait()
    assert_all_end(lambda: offspring("sleep 61"))
