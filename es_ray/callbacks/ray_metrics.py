"""Ray's metrics: numbers of a run beside those of the cluster, on Ray's dashboard and for Prometheus.

Ray adds `ray_` to the names. It exports them only where `ray[default]` is installed.
"""

import threading
from collections.abc import Mapping
from typing import Any, Final

from es_ray.callbacks.base import Callback, RunInfo

GAUGES: Final = {
    "generation": "The generation that was evaluated last",
    "reward_mean": "Mean reward of its members",
    "reward_best": "Highest reward of its members",
    "centre_reward": "Training reward of the centre that it started from",
    "test_reward": "Test reward of that centre",
    "tokens_per_second": "Tokens generated in a second",
    "workers": "Workers that are ready",
}
"""Keys of metrics.jsonl."""
TOKENS, REDISPATCHED = "tokens", "redispatched"
"""Keys of metrics.jsonl that are summed."""
AGAIN: Final = 1.0
"""Seconds between two settings of the gauges."""


class RayMetrics(Callback):
    """Gauges and counters named `es_ray_<key>`, with the run directory's name as the tag `run`.

    Ray forgets a gauge that was not set for some seconds, and a generation may take minutes: a thread sets
    them again.
    """

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._gauges: dict[str, Any] = {}
        self._tokens: Any = None

    def on_run_start(self, run: RunInfo) -> None:
        """Register them with the Ray that the run uses."""
        from ray.util.metrics import Counter, Gauge

        tags = {"tag_keys": ("run",)}
        # no counter: Ray does not export one that is still 0, which is what an alert compares with
        lost = {REDISPATCHED: "Members evaluated again so far, because their worker was lost"}
        self._gauges = {
            key: Gauge(f"es_ray_{key}", description=text, **tags) for key, text in (GAUGES | lost).items()
        }
        self._tokens = Counter(f"es_ray_{TOKENS}", description="Tokens generated", **tags)
        for metric in (*self._gauges.values(), self._tokens):
            metric.set_default_tags({"run": run.path.resolve().name})
        self._values = {REDISPATCHED: 0.0}
        self._set()
        self._closed.clear()
        self._thread = threading.Thread(target=self._keep_set, name="ray-metrics", daemon=True)
        self._thread.start()

    def on_workers(self, ready: int) -> None:
        """Set their gauge at once: a generation may take long after one was lost."""
        self._values["workers"] = float(ready)
        self._set()

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Set the gauges, and add to the sums."""
        measured = {key: float(metrics[key]) for key in GAUGES if metrics.get(key) is not None}
        self._values |= measured | {REDISPATCHED: self._values[REDISPATCHED] + metrics[REDISPATCHED]}
        self._set()
        if metrics[TOKENS] > 0:  # Ray refuses 0
            self._tokens.inc(metrics[TOKENS])

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_set(self) -> None:
        while not self._closed.wait(AGAIN):
            self._set()

    def _set(self) -> None:
        for key, value in list(self._values.items()):
            self._gauges[key].set(value)
