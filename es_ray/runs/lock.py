"""One driver for a run directory: a lock that the kernel gives back when its holder dies."""

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any

from es_ray.errors import UserError

LOCK = "lock"

_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child has the driver's files open; the lock would stay for as long as it lives."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


class RunLock:
    """Held from its construction to `release`; raises UserError if another driver has the folder.

    The lock is flock(2) on a file in the folder; host and pid of the holder stand in it, for messages. It
    ends with the process, however that ends, and no child keeps it. So on one host, and on file systems that
    carry flock between hosts (NFS, CephFS, Lustre with `flock`), a second driver is always refused, and a
    lock that a dead one left is taken over: on NFS once the server has noticed its death. Where flock stays
    on the host (FUSE, 9p, virtiofs, SMB, NFS mounted so), the life of another host's driver cannot be told:
    its lock file is refused until somebody removes it, and two that start at once are not told apart.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        try:
            self._handle = self._taken()
        except OSError as error:
            raise UserError(f"output.dir: {folder} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Give the folder back."""
        if self._handle not in _held:  # a forked child: it is not the child's to give
            return
        with contextlib.suppress(OSError):  # a lock file that stays is a stale one, and taken over
            if _is(self._handle, self.path):
                self.path.unlink()  # before it is let go: after that it may be another's
        self._close(self._handle)

    def _taken(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by programs it starts
            _held.add(handle)
            try:
                self._lock(handle)
                if _is(handle, self.path):  # else its owner ended, and removed it, since it was opened
                    return handle
            except BaseException:
                self._close(handle)
                raise
            self._close(handle)

    def _lock(self, handle: int) -> None:
        folder, here = self.path.parent, socket.gethostname()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(in_use(folder, _owner(handle))) from None
        except OSError as error:
            raise UserError(
                f"output.dir: {folder} cannot be locked ({error.strerror}): a run needs flock there"
            ) from error
        owner = _owner(handle)
        if owner and owner["host"] != here and not flock_reaches_other_hosts(folder):
            raise UserError(
                f"{in_use(folder, owner)}, or was: this file system does not tell whether that driver lives; "
                f"if it does not, remove {self.path}"
            )
        text = json.dumps({"host": here, "pid": os.getpid()}).encode() + b"\n"
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)
        os.fsync(handle)

    def _close(self, handle: int) -> None:
        _held.discard(handle)
        os.close(handle)


def holder(folder: Path) -> str | None:
    """What to say of the driver that has the folder; None if there is none. Changes nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # no lock, or none of ours to look at
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return in_use(folder, _owner(handle))
    finally:
        os.close(handle)
    return None


def in_use(folder: Path, owner: dict[str, Any] | None) -> str:
    """That a run directory has a driver, and which one."""
    who = f"pid {owner['pid']} on host {owner['host']}" if owner else "a driver that is just starting"
    return f"output.dir: {folder} is in use by another run: {who}"


def flock_reaches_other_hosts(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a lock on a file in the folder is seen by every host that has the folder."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(encoding="utf-8").splitlines() if mounts.is_file() else []:
        mount, _, source = line.partition(" - ")
        if mount.split()[2] != number:
            continue
        kind, options = source.split()[0], source.split()[-1].split(",")
        if kind in ("9p", "virtiofs", "cifs", "smb3") or kind.startswith("fuse"):
            return False
        return not {"nolock", "local_lock=flock", "local_lock=all", "localflock"} & set(options)
    return True


def _owner(handle: int) -> dict[str, Any] | None:
    """Who wrote the lock file; None while it is being written."""
    try:
        owner = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return None
    return owner if isinstance(owner, dict) and {"host", "pid"} <= set(owner) else None


def _is(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)
