"""One driver per run directory: a lock that the kernel releases when its holder dies."""

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


def _close_in_child() -> None:
    """A forked child inherits the driver's open files: with this one, it would keep the lock."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


class RunLock:
    """Held from construction to `release`; raises UserError if another driver holds it.

    The lock is flock(2) on a file in the folder, which contains the holder's host and pid for messages. It
    ends with the process, however that ends, and no child keeps it. So on one host, and on file systems that
    share flock between hosts (NFS, CephFS, Lustre with `flock`), a second driver is always refused, and the
    lock of a dead one is taken over: on NFS once the server has noticed its death. Where flock is local to
    the host (FUSE, 9p, virtiofs, SMB, NFS mounted so), there is no way to know whether another host's driver
    is alive: its lock file is refused until somebody removes it, and two that start at once may both succeed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        try:
            self._handle = self._acquire()
        except OSError as error:
            raise UserError(f"output.dir: {folder} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Release the lock."""
        if self._handle not in _held:  # a forked child does not own the lock
            return
        with contextlib.suppress(OSError):  # a leftover lock file is stale, and taken over
            if _is(self._handle, self.path):
                self.path.unlink()  # before the lock is released: after that it may be another's
        self._close(self._handle)

    def _acquire(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by child programs
            _held.add(handle)
            try:
                self._lock(handle)
                if _is(handle, self.path):  # else its owner has removed it since it was opened
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
                f"{in_use(folder, owner)}, or was: this file system cannot say if that driver is alive; "
                f"if it is not, remove {self.path}"
            )
        text = json.dumps({"host": here, "pid": os.getpid()}).encode() + b"\n"
        os.ftruncate(handle, 0)
        os.pwrite(handle, text, 0)
        os.fsync(handle)

    def _close(self, handle: int) -> None:
        _held.discard(handle)
        os.close(handle)


def holder(folder: Path) -> str | None:
    """A message about the driver that holds the folder; None if there is none. Changes nothing."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:  # no lock, or no permission to read it
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return in_use(folder, _owner(handle))
    finally:
        os.close(handle)
    return None


def in_use(folder: Path, owner: dict[str, Any] | None) -> str:
    """The message that a run directory has a driver, and which one."""
    who = f"pid {owner['pid']} on host {owner['host']}" if owner else "a driver that is just starting"
    return f"output.dir: {folder} is in use by another run: {who}"


def flock_reaches_other_hosts(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a lock on a file in the folder is seen by every host that mounts the folder."""
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
        current = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), current)
