"""The evidence's benchmark, without a GPU: its runs are the real ones, and go on where a call ended."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import es_ray
from es_ray.tasks import Example

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
VARYING = ("seconds", "settings")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    if "evidence_engine" in sys.modules:
        sys.modules["evidence_engine"].close_engine()


def call(folder: Path, name: str, earlier: str | None = None, generations: int = 10**6, plan: str = "smoke"):
    """One call whose time is up after so many generations; returns its records."""
    import evidence
    from evidence_listener import OutOfTime
    from evidence_plans import Files, plans
    from evidence_store import Store

    store = Store(folder / name, None if earlier is None else folder / earlier)
    before, work = len(store.records), folder / "work"

    def is_late() -> bool:
        return sum(r["kind"] == "generation" for r in store.records[before:]) >= generations

    base = evidence.Base("bundled", ["engine.kind=evidence_engine:TRANSFORMERS"])
    session = evidence.Session(store, base, work, is_late, {})
    try:
        session.run([plans(Files(folder / "data"), "bundled")[plan]])
    except OutOfTime:
        pass
    finally:
        store.close()
    return store.records


def same(records: list[dict]) -> list[dict]:
    """What must be equal, however the calls were cut."""
    return [{key: value for key, value in record.items() if key not in VARYING} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("whole")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return folder, call(folder, "whole")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_one_engine_serves_runs_that_differ_in_form_rule_noise_and_tokens(whole):
    ends = [record for record in whole[1] if record["kind"] == "end"]
    assert len(ends) == 2
    assert all("error" not in end for end in ends)
    moved = {record["run"] for record in whole[1] if record.get("update_norm", 0) > 0}
    assert moved == {end["run"] for end in ends}


def test_a_shared_engine_gives_the_results_of_a_plain_run(whole, tmp_path):
    import evidence
    from evidence_plans import smoke

    run = list(smoke())[1]  # the second: another run used the engine before
    base = evidence.Base("bundled", ["engine.kind=transformers"])
    plain = es_ray.run(base.config(run.settings, tmp_path / "run"))
    end = next(r for r in whole[1] if r["kind"] == "end" and r["run"] == run.name)
    for who in ("base", "centre", "selected"):
        assert end[who]["reward"] == pytest.approx(plain.test_results[who]["reward"], rel=1e-5)
        assert end[who]["rewards"] == [e["reward"] for e in plain.test_results[who]["examples"]]
    lines = [json.loads(line) for line in (plain.path / "metrics.jsonl").read_text().splitlines()]
    mine = [r["reward_mean"] for r in whole[1] if r["kind"] == "generation" and r["run"] == run.name]
    assert mine == pytest.approx([line["reward_mean"] for line in lines], rel=1e-5)


@pytest.mark.parametrize("generations", [2, 3])
def test_calls_that_end_in_the_middle_give_the_results_of_one(whole, tmp_path, generations):
    names = [None, *(f"call{number}" for number in range(10))]
    for earlier, name in itertools.pairwise(names):
        records = call(tmp_path, name, earlier, generations)
        if sum(record["kind"] == "end" for record in records) == 2:
            break
    assert name != "call0"
    assert same(records) == same(whole[1])


def test_a_call_that_was_killed_loses_only_the_run_it_was_in(whole, tmp_path):
    lines = (whole[0] / "whole" / "evidence.jsonl").read_text().splitlines(keepends=True)
    first_end = next(n for n, line in enumerate(lines) if '"kind": "end"' in line)
    (tmp_path / "killed").mkdir()
    torn = "".join(lines[: first_end + 3]) + lines[first_end + 3][:40]
    (tmp_path / "killed" / "evidence.jsonl").write_text(torn)
    before = len(lines[: first_end + 1])
    from evidence_store import Store

    store = Store(tmp_path / "taken", tmp_path / "killed")
    store.close()
    assert [record["kind"] for record in store.records[before:]] == []
    assert same(call(tmp_path, "after", "killed")) == same(whole[1])


def test_a_call_that_runs_nothing_hands_the_unfinished_run_on(whole, tmp_path):
    from evidence_store import Store

    call(tmp_path, "first", None, 2)
    Store(tmp_path / "idle", tmp_path / "first").close()
    records = call(tmp_path, "second", "idle")
    assert same(records) == same(whole[1])
    assert [file.name for file in (tmp_path / "second").iterdir()] == ["evidence.jsonl"]


def test_every_run_of_every_plan_has_a_configuration_that_fits_its_data(tmp_path):
    import evidence
    from evidence_plans import Files, plans

    base = evidence.Base("bundled", ["engine.kind=evidence_engine:TRANSFORMERS"])
    names = []
    for plan in plans(Files(tmp_path), "bundled").values():
        for run in plan.runs({}):
            names.append(run.name)
            base.config(run.settings, tmp_path / "run")
            assert run.plan == plan.name
    assert len(names) == len(set(names))


@pytest.mark.parametrize("plan", ["arithmetic", "alternatives"])
def test_a_plan_takes_what_was_calibrated(tmp_path, plan):
    import evidence
    from evidence_plans import RATE, RELATIVE, Files, plans

    run = next(plans(Files(tmp_path), "bundled")[plan].runs({RELATIVE: 0.07, RATE: 1.5}))
    config = evidence.Base("bundled", ["engine.kind=transformers"]).config(run.settings, tmp_path / "run")
    assert (config.evolution.noise.relative, config.evolution.learning_rate) == (0.07, 1.5)


def test_a_calibration_that_recommends_nothing_is_an_error():
    from evidence_calibration import settings_of

    assert settings_of({"settings": {"evolution.noise.relative": 0.1}}) == {"evolution.noise.relative": 0.1}
    for report in ({}, {"settings": {}}, {"settings": None}):
        with pytest.raises(RuntimeError, match="recommends no settings"):
            settings_of(report)


@pytest.mark.parametrize("name", ["chain_sum", "chain_sum_short", "brevity"])
def test_no_prompt_of_the_data_is_in_two_splits(name):
    files = sorted((BENCHMARKS / "data" / name).glob("*.jsonl"))
    prompts = [json.loads(line)["prompt"] for file in files for line in file.read_text().splitlines()]
    assert len(files) == 3
    assert len(prompts) == len(set(prompts))


def test_chain_sum_scores_as_reasoning_gym_does():
    pytest.importorskip("reasoning_gym")
    from evidence_task import ChainSum

    from es_ray.tasks.reasoning_gym import ReasoningGym

    mine, theirs = ChainSum(), ReasoningGym("chain_sum")
    answers = ("", "7", "07", "+7", "7.0", "It is 7.", "17", "-7", "1,007", "-1,007.0", "7 or 8", "nan",
               "7e0",
               "<answer>7</answer>", "<answer> 7", "<answer>3</answer> no <answer>7 </answer>!", "1_0",
               "٧")  # fmt: skip
    for target in ("7", "-7", "1007", "-1007", "10"):
        example = Example("a question", target)
        for answer in answers:
            expected, found = theirs.score(example, answer), mine.score(example, answer)
            assert found.reward == expected.reward, (target, answer)
            assert found.metrics["correct"] == expected.metrics["correct"], (target, answer)


def end(run: str, base: str, last: str, reward: float = 0.0) -> dict:
    """The end of a run whose reward is 1 for each right answer, and `reward` more for the last centre."""

    def centre(right: str, more: float) -> dict:
        rewards = [float(bit) + more for bit in right]
        mean = sum(rewards) / len(right)
        return {"reward": mean, "correct": right.count("1") / len(right), "rewards": rewards, "right": right}

    after = centre(last, reward)
    chosen = {"generation": 4, "verdicts": []}
    return {"kind": "end", "run": run, "seconds": 9.0, "base": centre(base, 0.0), "centre": after,
            "selected": after, "chosen": chosen}  # fmt: skip


CELLS = {
    "works": ("1" * 9 + "0" * 11, 0.0),
    "hacked": ("1" * 3 + "0" * 17, 0.5),
    "dead": ("1" * 5 + "0" * 15, 0.01),
    "broken": ("0" * 20, 0.0),
    "between": ("1" * 5 + "0" * 15, 0.1),
}
"""What a cell of the map is called whose base model has 5 of 20 right."""


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_the_map_are_called_what_they_are(name):
    from evidence_statistics import cell

    assert cell(end("map/b, 0.03, 1/301", "1" * 5 + "0" * 15, *CELLS[name])) == name


def test_a_failed_run_is_broken():
    from evidence_statistics import cell

    assert cell({"kind": "end", "run": "map/b, 0.3, 4/301", "error": "logits are not finite"}) == "broken"


def test_intervals_hold_what_they_say_they_hold():
    import numpy as np
    from evidence_statistics import paired, wilson

    assert wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)  # by R's prop.test(correct=FALSE)
    assert wilson(0, 20)[0] == pytest.approx(0.0, abs=1e-12)
    # runs that agree on each problem: the spread of a mean over problems alone
    problems = np.random.default_rng(1).normal(size=100)
    mean, low, high = paired([problems, problems])
    half = 1.96 * problems.std() / 10
    assert mean == pytest.approx(problems.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.03)


def test_the_report_has_every_plan_and_says_which_runs_hacked(tmp_path):
    import evidence_report

    half = "1" * 5 + "0" * 15
    records = [
        *(end(f"arithmetic/calibrated/{seed}", half, "1" * 12 + "0" * 8) for seed in (101, 102)),
        end("conciseness/no guard/101", half, "0" * 20, 0.5),
        end("conciseness/rollback/101", half, half, 0.2),
        *(end(f"map/{form}, {relative}, {rate}/301", half, *CELLS[name]) for form, relative, rate, name in
          (("b", 0.03, 1.0, "works"), ("b", 0.03, 4.0, "hacked"), ("b", 0.3, 1.0, "broken"),
           ("b", 0.3, 4.0, "dead"), ("both", 0.0125, 1.0, "between"))),
        {"kind": "end", "run": "map/both, 0.12, 1/301", "error": "not finite"},
        {"kind": "generation", "run": "arithmetic/calibrated/101", "generation": 0, "test_correct": 0.25},
        {"kind": "generation", "run": "arithmetic/calibrated/101", "generation": 5, "test_correct": 0.6},
        {"kind": "generation", "run": "arithmetic/calibrated/102", "generation": 0, "test_correct": 0.25},
    ]  # fmt: skip
    (tmp_path / "in").mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "in" / "evidence.jsonl").write_text(lines)
    evidence_report.main([tmp_path / "in", tmp_path / "in"], tmp_path)  # twice: the later ones win
    text = (tmp_path / "evidence.md").read_text()
    assert text.count("| calibrated | 10") == 2
    assert "2 runs, selected right in 0.600 (median; 0.600 to 0.600), +0.35" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| no guard", "| rollback"))]
    assert [(row[0].strip("| "), row[7]) for row in rows] == [("no guard", "yes"), ("rollback", "no")]
    assert "| b | 0.03 | 4 | 0.150 | 0.650 |  | hacked |" in text
    for name in ("evidence_map.png", "evidence_arithmetic.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_report_puts_longer_runs_beside_each_other(tmp_path):
    import evidence_report

    base, worse, better = "1" * 5 + "0" * 15, "1" * 8 + "0" * 12, "0" * 2 + "1" * 14 + "0" * 4
    lengths = {
        "merged/1": 100,
        "merged, long/1": 200,
        "b, long/1": 200,
        "both, long/1": 120,
    }  # the last stopped
    records = [
        end("forms/merged/1", base, better),
        end("forms/merged, long/1", base, better),
        end("forms/b, long/1", base, worse),
    ]
    for name, count in lengths.items():
        records += [
            {"kind": "generation", "run": f"forms/{name}", "generation": g, "drift": g / 1000,
             "centre_correct": 0.5 if name.startswith("merged") else 0.4 + 0.1 * (g < 100), "truncated": 0.25,
             **({"verdicts": ["cut"]} if name.startswith("b,") and g in (7, 8) else {}),
             **({"test_correct": g / 200} if g % 10 == 0 else {})}
            for g in range(count)
        ]  # fmt: skip
    for record in records:
        if record["kind"] == "end":
            record["chosen"] = {"generation": 60}
    (tmp_path / "evidence.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    evidence_report.main([tmp_path], tmp_path)
    rows = [line.strip("| ").split(" | ") for line in (tmp_path / "evidence.md").read_text().splitlines()]
    of_b = [row for row in rows if row[0] == "b, long"]
    assert [row[0] for row in rows].count("both, long") == 1, "a run without an end is in the curves alone"
    ended, _, parts, places, less = of_b
    assert ended[2:4] == ["200", "0.400 (0.400–0.400)"]
    assert parts[1:] == ["0.100 / 0.500", "0.350 / 0.500", "0.600 / 0.400", "0.850 / 0.400"]
    assert places[1:] == ["0.0990", "0.1990", "2", "0.25", "60"]
    # of 20 problems, merged has 8 that b has not, and b 2 that merged has not
    assert less[1].startswith("+0.3 (") and less[3] == "+0.1 (+0.1 to +0.1)"
