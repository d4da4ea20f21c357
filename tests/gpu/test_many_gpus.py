"""Workers on several GPUs of one host: they agree, and what is killed among them costs time alone."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from es_ray.engines.sglang import compat
from tests.gpu.conftest import lost_workers, sglang_settings
from tests.gpu.test_sglang_gpu import wait_for
from tests.short_runs import command, json_lines

GPUS = min(torch.cuda.device_count(), 4)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
    pytest.mark.skipif(GPUS < 2, reason="there are not two GPUs"),
]
GENERATIONS = 30
VOLATILE = {"seconds", "tokens_per_second", "workers", "redispatched", "time"}


def arguments(folder: Path, workers: int, *sets: str) -> list[str]:
    settings = [
        "engine.deterministic=true", f"engine.sglang={json.dumps(sglang_settings())}", "engine.shard=4", *sets
    ]  # fmt: skip
    more = [part for setting in settings for part in ("--set", setting)]
    return command("run", "--engine", "sglang", "--workers", workers, "--output", folder, *more)


def kept(folder: Path) -> list[dict]:
    lines = json_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in VOLATILE} for line in lines]


def schedulers(run: subprocess.Popen) -> list:
    psutil = pytest.importorskip("psutil")
    return [
        child
        for child in psutil.Process(run.pid).children(recursive=True)
        if "sglang::scheduler" in " ".join(child.cmdline())
    ]


def test_a_killed_scheduler_and_a_killed_actor_change_no_reward(tmp_path, report):
    """The other workers go on meanwhile, and the lost ones are replaced."""
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    amount = ("--generations", str(GENERATIONS))
    done = subprocess.run(
        [*arguments(calm, GPUS), *amount], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    messages = tmp_path / "messages"
    with messages.open("w") as out:
        run = subprocess.Popen([*arguments(stormy, GPUS), *amount], stdout=out, stderr=subprocess.STDOUT)
    went_on = []
    try:
        for generation, who in ((2, "scheduler"), (6, "actor")):
            wait_for((stormy / f"generations/{generation:04d}/DONE").is_file, run, 300)
            scheduler = schedulers(run)[0]
            os.kill(scheduler.pid if who == "scheduler" else scheduler.ppid(), signal.SIGKILL)
            killed = time.monotonic()
            reached = sum(1 for _ in stormy.glob("generations/*/DONE"))
            wait_for(lambda n=reached + 1: sum(1 for _ in stormy.glob("generations/*/DONE")) >= n, run, 300)
            went_on.append(time.monotonic() - killed)
        assert run.wait(timeout=300) == 0, messages.read_text()[-3000:]
    finally:
        run.kill()
    lines = json_lines(stormy / "metrics.jsonl")
    lost = sum(line["redispatched"] for line in lines)
    report(
        workers=GPUS, seconds_to_go_on=went_on, redispatched=lost, active=[line["workers"] for line in lines],
        said=[line for line in messages.read_text().splitlines() if "worker" in line][:12],
    )  # fmt: skip
    assert lost_workers(messages.read_text()) == 2
    assert kept(stormy) == kept(calm)
    assert json.loads((stormy / "test_results.json").read_text()) == json.loads(
        (calm / "test_results.json").read_text()
    )


@pytest.mark.skipif(GPUS < 4, reason="there are not four GPUs")
def test_two_workers_of_two_gpus_have_equal_merged_weights(tmp_path):
    """The run compares the digests of all workers after each update, and stops where one differs."""
    sets = [
        "engine.tensor_parallel=2", "lora.form=merged", "evolution.update_scale=sigma",
        "evolution.learning_rate=2", "evolution.noise={kind: relative, relative: 0.4}", "model.dtype=float16",
    ]  # fmt: skip
    folder = tmp_path / "run"
    done = subprocess.run(
        [*arguments(folder, 2, *sets), "--generations", str(GENERATIONS)],
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = json_lines(folder / "metrics.jsonl")
    assert lines[-1]["workers"] == 2
    assert lines[-1]["drift"] > 0
    assert lines[-1]["centre_reward"] > lines[0]["centre_reward"]
