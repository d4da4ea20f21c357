"""Machines made of namespaces: a bridge, and hosts on it with their own network, processes and /tmp.

Everything hangs under one process, the first of an outer PID namespace: when it is killed the kernel kills
all that was started below it, and network, mounts and addresses go with them. It dies with this process, too.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NETWORK = "10.213.7"
"""The first three bytes of all addresses. They exist in the namespaces alone."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""On the hosts. Nothing else of this process's environment is passed on."""

PROGRAMS = ("unshare", "nsenter", "setpriv", "ip", "mount", "ssh", "ssh-keygen", "sshd", "rsync")

INIT = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"
"""The first process of a namespace: waits, and reaps what is left to it."""


def missing() -> str | None:
    """Why such hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in PROGRAMS if program(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: openssh-server, openssh-client, rsync, iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc",
         "sh", "-c", "ip link add name probe0 type bridge && mount -t tmpfs none /mnt"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"namespaces are refused: {tried.stderr.strip()}" if tried.returncode else None


def program(name: str) -> str | None:
    """Where a program is; sshd and ip may lie outside of the PATH of this process."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")


class Host:
    """A set of namespaces with an address. Its /tmp is a folder here: its files can be read from outside."""

    def __init__(
        self, name: str, number: int, folder: Path, keep: Sequence[Path] = (), enter: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self.tmp = folder / "tmp"
        """The host's /tmp, as seen from here."""
        self.home = Path("/tmp/home")
        """Root's home folder, as seen there."""
        self._process = _unshared(folder, name, keep, enter)
        self._pid = _leaf(self._process.pid)

    def outside(self, path: Path) -> Path:
        """A path below the host's /tmp, as seen from here."""
        return self.tmp / path.relative_to("/tmp")

    def command(self, *arguments: object) -> list[str]:
        """A command that runs its arguments on the host."""
        names = {"HOME": self.home, "PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb"}
        inside = ["env", "-i", "-C", self.home, *(f"{name}={value}" for name, value in names.items())]
        return ["nsenter", "--target", str(self._pid), "--all", "--", *map(str, [*inside, *arguments])]

    def run(self, *arguments: object, timeout: float = 60, check: bool = True, **options) -> str:
        """Run a command on the host to its end, and give what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, **options,
        )  # fmt: skip
        assert done.returncode == 0 or not check, (
            f"{self.name}: {shlex.join(map(str, arguments))}: {done.stdout}"
        )
        return done.stdout

    def processes(self, name: str) -> list[int]:
        """The processes on the host whose program has that name, by their numbers here."""
        inside = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                here = os.readlink(process / "ns/pid") == inside
                if here and (process / "comm").read_text().strip() == name[:15]:
                    found.append(int(process.name))
            except OSError:  # it has ended
                continue
        return found

    def kill(self, name: str) -> None:
        """SIGKILL to all processes of that name; there must be one."""
        found = self.processes(name)
        assert found, f"no {name} runs on {self.name}"
        for process in found:
            os.kill(process, signal.SIGKILL)


def _leaf(pid: int) -> int:
    """The last of a chain of processes with one child each: the first process of the new PID namespace."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
        if len(_numbers(pid)) > 1 and _numbers(pid)[-1] == 1:
            return pid
    raise AssertionError("no PID namespace was made")


def _numbers(pid: int) -> list[int]:
    """A process's numbers in the PID namespaces that it is in, the outermost first."""
    status = Path(f"/proc/{pid}/status").read_text()
    return [int(number) for number in status.split("NSpid:")[1].splitlines()[0].split()]


class Lan(Host):
    """The bridge side: a host that is no part of the cluster, where `ray up` is typed. Others hang on it."""

    def __init__(self, folder: Path, keep: Sequence[Path]) -> None:
        self._folder = folder
        super().__init__("desk", 1, folder / "desk", keep)
        self._hosts: list[Host] = []
        self.run("sh", "-ec", f"ip link add lan type bridge; ip link set lan up;"
                 f"ip address add {self.address}/24 dev lan")  # fmt: skip

    def host(self, name: str, public_key: Path) -> Host:
        """A further host, with an sshd that root enters with that key."""
        # Below the bridge side's first process, and so killed with it.
        enter = ["nsenter", "--target", str(self._pid), "--pid", "--"]
        host = Host(name, 10 + len(self._hosts), self._folder / name, enter=enter)
        self._hosts.append(host)
        # The cable: one end in each network namespace.
        seen_here = _numbers(host._pid)[-2]
        self.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", seen_here)
        self.run("ip", "link", "set", name, "master", "lan", "up")
        # Ray finds a host's own address by its way out. This one ends at the desk, which forwards nothing.
        way_out = f"ip route add default via {self.address}"
        up = f"ip address add {host.address}/24 dev eth0; ip link set eth0 up; {way_out}"
        host.run("sh", "-ec", up)
        _start_sshd(host, public_key)
        return host

    def cut(self, host: Host) -> None:
        """Pull the host's cable."""
        self.run("ip", "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Plug it in again."""
        self.run("ip", "link", "set", host.name, "up")

    @contextmanager
    def mended(self, host: Host) -> Iterator[None]:
        """Leave with the host's cable plugged in, also after a failure."""
        try:
            yield
        finally:
            self.mend(host)

    def close(self) -> None:
        """End everything that runs on any host, and wait until it has ended."""
        self._process.kill()
        for host in [self, *self._hosts]:
            host._process.wait(timeout=30)
            while Path(f"/proc/{host._pid}").exists():
                time.sleep(0.01)


def _unshared(
    folder: Path, name: str, keep: Sequence[Path], enter: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """Start the first process of a new host, with a /tmp, /dev/shm, /run and home folder of its own."""
    tmp = folder / "tmp"
    (tmp / "home").mkdir(parents=True)
    tmp.chmod(0o1777)
    passwd = folder / "passwd"
    lines = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in lines if not line.startswith("root:")]
    passwd.write_text("\n".join(["root:x:0:0:root:/tmp/home:/bin/bash", *others]) + "\n")
    binds = []
    for kept in sorted({sys.prefix, sys.base_prefix, *map(str, keep)}):
        if kept.startswith("/tmp/"):  # it would vanish under the host's own /tmp
            place = tmp / Path(kept).relative_to("/tmp")
            place.mkdir(parents=True, exist_ok=True)
            binds.append(f"mount --bind {shlex.quote(kept)} {shlex.quote(str(place))}")
    ready = folder / "ready"
    script = "\n".join([
        "set -e",
        "mount --make-rprivate /",
        *binds,
        f"mount --bind {shlex.quote(str(passwd))} /etc/passwd",
        f"ready={shlex.quote(str(ready))}",
        'exec 3>"$ready"',
        f"mount --rbind {shlex.quote(str(tmp))} /tmp",
        "mount -t tmpfs tmpfs /dev/shm",
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/sshd",
        f"hostname {shlex.quote(name)}",
        "ip link set lo up",
        "echo yes >&3",
        "exec 3>&-",
        INIT,
    ])  # fmt: skip
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *enter,
         "unshare", "--net", "--pid", "--mount", "--uts", "--ipc",
         "--fork", "--kill-child", "--mount-proc", "bash", "-c", script],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(500):
        if ready.exists() and ready.read_text():
            return process
        assert process.poll() is None, f"{name}: the namespaces could not be set up"
        time.sleep(0.01)
    raise AssertionError(f"{name}: the namespaces were not ready within 5 s")


def _start_sshd(host: Host, public_key: Path) -> None:
    """An sshd with a host key of its own, for root with that key alone."""
    ssh = host.outside(host.home) / "sshd"
    ssh.mkdir(mode=0o700)
    shutil.copy(public_key, ssh / "authorized_keys")
    inside = host.home / "sshd"
    settings = {
        "ListenAddress": f"{host.address}:22",
        "HostKey": inside / "host_key",
        "PidFile": "none",
        "AuthorizedKeysFile": inside / "authorized_keys",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "StrictModes": "no",  # /tmp is above the keys
        "UsePAM": "no",
    }
    (ssh / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", inside / "host_key")
    host.run(program("sshd"), "-f", inside / "config", "-E", inside / "log")


@contextmanager
def lan(folder: Path, keep: Sequence[Path] = ()) -> Iterator[Lan]:
    """A bridge side whose hosts are gone at the end. keep: folders that it sees even below /tmp."""
    made = Lan(folder, keep)
    try:
        yield made
    finally:
        made.close()
