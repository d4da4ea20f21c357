"""What the driver knows of its workers' heartbeats: how long each has been silent, and its progress."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Beat:
    """A worker's last heartbeat. age: seconds since it arrived.

    batch, rows: which batch of calls the worker was on, counted from 1, and the completions made in it.
    """

    age: float
    batch: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Report:
    """The monitor's answer. monitor: its id, new after each restart; beats: each worker's last since then."""

    monitor: str
    beats: dict[int, Beat]


class Heartbeats:
    """The last beat of each worker, by the driver's clock, whichever monitor received it."""

    def __init__(self) -> None:
        self._monitor: str | None = None
        self._last: dict[int, float] = {}
        self._latest = 0.0
        self._beats: dict[int, Beat] = {}

    def update(self, report: Report, now: float) -> None:
        """Process an answer of the monitor. now: monotonic seconds."""
        if report.monitor != self._monitor:
            # beats were lost while it restarted: each worker has the full time to be seen by the new one
            self._last = dict.fromkeys(self._last, now)
            self._monitor = report.monitor
        self._last |= {key: now - beat.age for key, beat in report.beats.items()}
        self._beats |= report.beats
        self._latest = now

    def silence(self, key: int) -> float:
        """Seconds from a worker's last beat to the monitor's latest answer; 0 for one never seen."""
        return self._latest - self._last.get(key, self._latest)

    def rows(self, key: int, batch: int) -> int:
        """Completions that a worker has made in a batch of calls, as far as it has reported."""
        beat = self._beats.get(key)
        return beat.rows if beat is not None and beat.batch == batch else 0

    def forget(self, key: int) -> None:
        """Drop what is known of a worker that is gone."""
        self._last.pop(key, None)
        self._beats.pop(key, None)
