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
    "workers": "Workers that are alive",
}
"""Keys of metrics.jsonl."""
COUNTERS: Final = {
    "redispatched": "Members evaluated again, because their worker was lost",
    "tokens": "Tokens generated",
}
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
        self._counters: dict[str, Any] = {}

    def on_run_start(self, run: RunInfo) -> None:
        """Register them with the Ray that the run uses."""
        from ray.util.metrics import Counter, Gauge

        tag = {"run": run.path.resolve().name}
        for kind, into, keys in ((Gauge, self._gauges, GAUGES), (Counter, self._counters, COUNTERS)):
            for key, text in keys.items():
                into[key] = kind(f"es_ray_{key}", description=text, tag_keys=("run",))
                into[key].set_default_tags(tag)
        self._closed.clear()
        self._thread = threading.Thread(target=self._keep_set, name="ray-metrics", daemon=True)
        self._thread.start()

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Set the gauges, and add to the counters."""
        self._values |= {key: float(metrics[key]) for key in GAUGES if metrics.get(key) is not None}
        self._set()
        for key, counter in self._counters.items():
            if metrics[key] > 0:  # Ray refuses 0
                counter.inc(metrics[key])

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
