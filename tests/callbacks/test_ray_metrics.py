"""A run's metrics, scraped from the endpoint of a real Ray as Prometheus would, also of a lost worker."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("prometheus_client", reason="Ray exports metrics with ray[default] only")
pytest.importorskip("opencensus")

SCRAPE = """
import json, sys, time, urllib.request
import psutil
import es_ray
from tests.listeners import listening

def scraped(metrics):
    import ray
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:  # Ray reports in the background
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            lines = []
        found = [line for line in lines if line.startswith("ray_es_ray_")]
        now = f" {float(metrics['generation'])}"
        if any(line.startswith("ray_es_ray_generation{") and line.endswith(now) for line in found):
            break
        time.sleep(0.5)
    seen.append({"metrics": metrics, "lines": found})
    reached.append(metrics["generation"])
    if metrics["generation"] == 1:
        time.sleep(PAUSE)  # longer than Ray keeps a gauge
        with urllib.request.urlopen(url, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        seen.append({"metrics": metrics, "lines": [line for line in lines if line.startswith("ray_es_ray_")]})

def workers():
    import ray
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith("ray_es_ray_workers{")]

def watch_loss(ready):
    counts.append(ready)
    if ready == 0:
        deadline = time.monotonic() + 60
        while workers() != [0.0] and time.monotonic() < deadline:  # in the middle of the generation
            time.sleep(0.5)
        shown.extend(workers())

def kill_one(done, total):
    if reached == [0] and 0 < done < total and not killed:
        killed.extend(p for p in psutil.Process().children(recursive=True) if "ray::WorkerActor" in p.name())
        killed[0].kill()

PAUSE, seen, reached, killed, counts, shown = 8, [], [], [], [], []
config = es_ray.load(sets=[
    "evolution.generations=2", "evolution.population=6", "cluster.workers=1", "output.plots_every=null",
    "engine.shard=2", f"output.dir={sys.argv[1]}",
])
listener = listening(on_generation_end=scraped, on_progress=kill_one, on_workers=watch_loss)
es_ray.run(config, callbacks=[listener])
assert (counts, shown) == ([0, 1], [0.0]), (counts, shown)
with open(sys.argv[2], "w") as file:
    json.dump(seen, file)
"""


def test_prometheus_reads_the_runs_numbers_from_ray(tmp_path):
    env = os.environ | {"RAY_metrics_report_interval_ms": "500"}
    done = subprocess.run(
        [sys.executable, "-c", SCRAPE, tmp_path / "run", tmp_path / "seen.json"],
        env=env, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert [each["metrics"]["generation"] for each in seen] == [0, 1, 1]
    tokens = 0
    assert any(re.fullmatch(r"ray_es_ray_redispatched\{.*\} 0(\.0)?", line) for line in seen[0]["lines"])
    for scrape in seen[1:]:
        metrics = scrape["metrics"]
        values = {}
        for line in scrape["lines"]:
            name, labels, value = re.fullmatch(r"ray_(\w+)\{(.*)\} (\S+)", line).groups()
            assert 'run="run"' in labels
            values[name] = float(value)
        for key in ("generation", "reward_mean", "reward_best", "centre_reward", "test_reward", "workers"):
            assert values[f"es_ray_{key}"] == pytest.approx(metrics[key]), key
        assert values["es_ray_tokens_per_second"] == pytest.approx(metrics["tokens_per_second"])
        assert values["es_ray_redispatched"] == metrics["redispatched"] > 0
        tokens = values["es_ray_tokens_total"]
    assert tokens == sum(each["metrics"]["tokens"] for each in seen[:2])
