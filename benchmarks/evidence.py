r"""Evidence on a real model: many runs in one process with one engine, continued from call to call.

    python3 benchmarks/evidence.py --plan arithmetic --model DIR --results IN --output OUT --seconds 540

On a rented GPU, where SmolLM2 lies in /tmp/smollm2 and a call may take ten minutes:

    python3 benchmarks/evidence.py --plan all --model /tmp/smollm2 --results $IN --output $OUT --seconds 540 \
        --set engine.sglang.attention_backend=triton --set engine.sglang.sampling_backend=pytorch \
        --set engine.sglang.grammar_backend=none

Each run is `es_ray.run` with its configuration, in a run directory on a RAM disk: the same loop, guard,
selection and final comparison as of the command. It stops in time, in the middle of a run if need be; OUT has
what the next call takes as IN, and `evidence_report.py` makes tables of it.

`--plan` may be given several times, `all` are all of them, and `--list` shows runs with the time they need.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the engine and the tasks are imported by name

import evidence_calibration as calibration  # noqa: E402
import evidence_engine as engine  # noqa: E402
from evidence_listener import Listener, OutOfTime, summary  # noqa: E402
from evidence_plans import SMOKE, Files, Plan, Run, plans  # noqa: E402
from evidence_store import Store, ended, generations, read  # noqa: E402

import es_ray  # noqa: E402
from es_ray.config import Config  # noqa: E402
from es_ray.errors import RunError  # noqa: E402
from es_ray.runs.environment import environment  # noqa: E402

WORK = Path("/dev/shm/es-ray-evidence")
"""The same in all calls: configurations name data files with their paths."""
ENGINES = {"sglang": "evidence_engine:SGLANG", "transformers": "evidence_engine:TRANSFORMERS"}
NEVER = 1_000_000
QUIET = {
    "cluster.workers": 0,
    "output.plots_every": None,
    "output.populations_every": NEVER,
    "output.adapters_every": NEVER,
}
"""Without what costs time and is not looked at: the first generation's is written all the same."""


def main(
    plan: Annotated[list[str], typer.Option(help="Plans to run, in this order; all: every one.")] = ["all"],  # noqa: B006
    model: Annotated[str, typer.Option(help="The model's folder.")] = "bundled",
    results: Annotated[Path | None, typer.Option(help="The folder that an earlier call wrote.")] = None,
    output: Annotated[Path, typer.Option(help="Where results go.")] = Path("benchmarks/out"),
    seconds: Annotated[float, typer.Option(help="When to stop.")] = 540.0,
    reserve: Annotated[
        float, typer.Option(help="Seconds of these for ending: to stop SGLang, to pack.")
    ] = 15.0,
    engine_kind: Annotated[str, typer.Option("--engine", help=f"One of {', '.join(ENGINES)}.")] = "sglang",
    calibrated: Annotated[
        Path | None, typer.Option(help="JSON {plan: {key: value}} instead of calibrating.")
    ] = None,
    only: Annotated[str, typer.Option(help="Only runs whose name has a match of this expression.")] = "",
    sets: Annotated[list[str], typer.Option("--set", help="Keys of every configuration.")] = [],  # noqa: B006
    work: Annotated[Path, typer.Option(help="For run directories; a RAM disk.")] = WORK,
    list_: Annotated[
        bool, typer.Option("--list", help="Show the runs and their seconds, then stop.")
    ] = False,
) -> None:
    """Run what is not done yet, write it down, and print a short table."""
    started = time.monotonic()
    known = plans(Files(work / "data"), Path(model).name)
    names = [name for name in known if name != SMOKE] if "all" in plan else plan
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r}: plans are {', '.join(known)}", param_hint="--plan")
    chosen = [known[name] for name in names]
    given = json.loads(calibrated.read_text()) if calibrated is not None else {}
    if list_:
        show_plans(chosen, given, ended(read(results)) if results is not None else set())
        return
    kind = ENGINES.get(engine_kind, engine_kind)
    base = Base(model, [f"engine.kind={kind}", *sets])
    store = Store(output, results)
    session = Session(store, base, work, lambda: time.monotonic() > started + seconds - reserve, given, only)
    session.store.append("call", environment=environment("transformers"), model=model, arguments=sys.argv[1:])
    try:
        session.run(chosen)
    except OutOfTime:
        print(f"out of time after {time.monotonic() - started:.0f} s; the next call goes on", flush=True)
    finally:
        store.close()
        show(store, session.here, time.monotonic() - started)
        engine.close_engine()


class Base:
    """What all runs share: the model, the engine, and keys of the command line."""

    def __init__(self, model: str, sets: Sequence[str]) -> None:
        self._model, self._sets = model, sets

    def config(self, settings: Mapping[str, Any], folder: Path) -> Config:
        """The configuration of a run with these settings; raises UserError."""
        values = {"engine.shard": settings.get("evolution.population", 0) + 2, **QUIET, **settings}
        if "evolution.population" not in settings:
            del values["engine.shard"]  # a newcomer's run: all as it is by default
        flags = {"model.path": self._model, "output.dir": str(folder), **values}
        nothing = [f"{key}=null" for key, value in flags.items() if value is None]
        return es_ray.load(sets=[*nothing, *self._sets], flags=flags)


class Session:
    """One call: runs what it is given until its time is up.

    is_late(): whether it is up; given: settings of a calibration by plan; only: an expression for
    the runs' names.
    """

    def __init__(
        self,
        store: Store,
        base: Base,
        work: Path,
        is_late: Callable[[], bool],
        given: Mapping[str, Mapping[str, Any]],
        only: str = "",
    ) -> None:
        self.store, self._base, self._work = store, base, work
        self._is_late, self._given, self._only = is_late, given, only
        self.here: list[str] = []
        """The runs that went on in this call."""

    def run(self, chosen: Sequence[Plan]) -> None:
        """Everything of these plans that is not done; raises OutOfTime."""
        self._make_room(chosen)
        for plan in chosen:
            for run in plan.runs(self._calibrated(plan)):
                if run.name not in ended(self.store.records) and re.search(self._only, run.name):
                    self._run(run)

    def _make_room(self, chosen: Sequence[Plan]) -> None:
        """An engine that is large enough for all plans, so that it is started once."""
        largest = max(
            run.settings.get("evolution.population", 30)
            for plan in chosen
            for run in plan.runs(self._given.get(plan.name, {}))
        )
        engine.CAPACITY.slots, engine.CAPACITY.population = largest + 2, largest
        engine.CAPACITY.rows = 32 * (largest + 2)

    def _calibrated(self, plan: Plan) -> Mapping[str, Any]:
        """Settings for the plan's runs: given, found in an earlier call, or found now."""
        if plan.name in self._given:
            return self._given[plan.name]
        if plan.calibrate is None:
            return {}
        for record in self.store.records:
            if record["kind"] == "calibration" and record["run"] == plan.calibrated_as:
                return record["settings"]
        if not calibration.is_available():
            print(f"{plan.name}: this es-ray cannot calibrate: general defaults", flush=True)
            return {}
        self._check_time()
        config = self._base.config(plan.calibrate, self._work / "calibration")
        found = calibration.calibrate(config, self._work)
        self.store.append("calibration", run=plan.calibrated_as, **found)
        return found["settings"]

    def _check_time(self) -> None:
        if self._is_late():
            raise OutOfTime

    def _run(self, run: Run) -> None:
        """A run, from where it was; raises OutOfTime."""
        self._check_time()
        folder = self._work / "runs" / run.name.replace("/", "-").replace(" ", "")
        resume = self.store.unfinished == run.name
        shutil.rmtree(folder, ignore_errors=True)
        if resume:
            self.store.unpack(folder)
        config, began = self._base.config(run.settings, folder), time.monotonic()
        self.here.append(run.name)
        listener = Listener(self.store, run, self._is_late)
        listener.started = resume
        try:
            result = es_ray.run(config, resume=resume, callbacks=[listener])
        except OutOfTime:
            self.store.pack(folder, run.name)
            raise
        except RunError as error:  # broken weights, say: a result too
            self.store.append("end", run=run.name, error=str(error), seconds=time.monotonic() - began)
        else:
            found = summary(result.test_results, folder)
            self.store.append("end", run=run.name, seconds=time.monotonic() - began, **found)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{run.name}: {line_of(self.store, run.name)}", flush=True)


def line_of(store: Store, name: str) -> str:
    """A run in a line."""
    lines = list(generations(store.records, name))
    end = next((r for r in store.records if r["kind"] == "end" and r["run"] == name), None)
    if end is None:
        return f"unfinished, {len(lines)} generations"
    if "error" in end:
        return f"failed: {end['error'][:100]}"
    parts = [
        f"{who} {end[who]['reward']:.3g}" + (f" / {end[who]['correct']:.2f}" if "correct" in end[who] else "")
        for who in ("base", "selected", "centre")
    ]
    return f"{', '.join(parts)}; {len(lines)} generations in {end['seconds']:.1f} s"


def show(store: Store, names: Sequence[str], seconds: float) -> None:
    """The table that is printed last: test reward / correct, of what ran in this call."""
    print(f"\n{len(ended(store.records))} runs are done, {len(names)} went on in {seconds:.0f} s")
    for name in names:
        lines = [line["seconds"]["total"] for line in generations(store.records, name)]
        each = sorted(lines)[len(lines) // 2] if lines else 0.0
        print(f"  {name:<44} {line_of(store, name)} (median {each:.2f} s)")


def show_plans(chosen: Sequence[Plan], given: Mapping[str, Any], done: set[str]) -> None:
    """What is left to do, with the seconds that it is expected to take."""
    total = 0.0
    for plan in chosen:
        left = [run for run in plan.runs(given.get(plan.name, {})) if run.name not in done]
        needed = sum(run.seconds for run in left)
        total += needed
        print(f"{plan.name:<16} {len(left):>3} runs {needed:>6.0f} s   {plan.shows}")
    print(f"{'':<16} {'':>8} {total:>6.0f} s")


if __name__ == "__main__":
    typer.run(main)
