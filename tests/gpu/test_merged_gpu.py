"""Form merged on a GPU: updates drawn by Triton, and the SGLang engine, against float64 and plain models."""

import json
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from es_ray.config import load
from es_ray.engines.base import BASE, CENTRE, Row, Variant
from es_ray.engines.merged_centre import MergedCentre
from es_ray.engines.merged_weights import AdaptedWeight, MergedWeights
from es_ray.engines.sglang import compat
from es_ray.evolution.merged import updates
from es_ray.evolution.perturbation import PiecewiseConstant
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from tests import plain_peft
from tests.engines.sglang.fake_sglang import WEIGHTS
from tests.engines.sglang.test_merged_scheduler import MERGED, fresh, history, wanted
from tests.gpu.conftest import sglang_settings
from tests.merged_reference import Reference
from tests.short_runs import command, json_lines

NEAR_TIE = 0.05
"""Two tokens whose scores are so close, in nats, may change places between two engines in float16."""
NEEDS_SGLANG = pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def on_gpu(dtype: torch.dtype) -> tuple[MergedWeights, list[torch.Tensor]]:
    from es_ray.engines.sglang.lora.merged_updates import TritonUpdates

    served = [WEIGHTS[module.name].to("cuda", dtype) for module in MERGED.modules]
    parts = iter(MERGED.tensors)
    adapted = [AdaptedWeight(weight, a, b) for weight, a, b in zip(served, parts, parts, strict=True)]
    return MergedWeights(adapted, MERGED.scaling, TritonUpdates(torch.device("cuda"))), served


@pytest.mark.parametrize("antithetic", [True, False])
def test_updates_are_those_of_float64(antithetic):
    weights, served = on_gpu(torch.float32)
    centre, perturbation = MergedCentre(weights), fresh(antithetic)
    centre.show(history(10), perturbation)
    right = wanted(history(10), perturbation)
    for module, weight in zip(MERGED.modules, served, strict=True):
        apart = np.abs(weight.double().cpu().numpy() - right[module.name]).max()
        assert apart <= 1e-5 * np.abs(right[module.name]).max()
    change = [right[name] - WEIGHTS[name].double().numpy() for name in right]
    norms = [
        np.sqrt(sum(float(np.square(np.asarray(m)).sum()) for m in p)) for p in (change, WEIGHTS.values())
    ]
    assert centre.drift(history(10), perturbation) == pytest.approx(norms[0] / norms[1], rel=1e-5)


def test_served_weights_are_rounded_once_and_equal_however_they_were_reached():
    """A thousand updates far below half an ULP add up."""
    weights, served = on_gpu(torch.bfloat16)
    before = [weight.double().cpu() for weight in served]
    centre, perturbation = MergedCentre(weights), fresh()
    updates = history(1000, kept=1.0)
    updates[:, :-1] *= 2e-3
    for generations in (1, 400, 1000):
        centre.show(updates[:generations], perturbation)
    other, elsewhere = on_gpu(torch.bfloat16)
    at_once = MergedCentre(other)
    at_once.show(updates, perturbation)
    assert at_once.checksum() == centre.checksum()
    exact = wanted(updates, perturbation)
    for module, weight, mine, base in zip(MERGED.modules, served, elsewhere, before, strict=True):
        assert torch.equal(weight, mine)
        target = torch.from_numpy(exact[module.name] - WEIGHTS[module.name].double().numpy()) + base
        apart = (weight.double().cpu() - target).abs()
        assert (apart <= 2**-8 * target.abs() + 1e-6).all()  # half an ULP
        assert ((weight.double().cpu() - base).abs() > 2**-8 * base.abs()).any()


def test_weights_of_a_real_size_have_the_same_bits_served_or_not():
    """And from graphs of two numbers of directions in turn, or one update after the other."""
    from es_ray.engines.sglang.lora.merged_updates import TritonUpdates

    module = replace(MERGED.modules[0], in_features=3584, out_features=18944)
    made = replace(MERGED, modules=[module])
    sigma = PiecewiseConstant((made.tensors[0].stop, made.size), (0.0, 0.02))
    perturbation = replace(fresh(), sigma=sigma)
    some = list(updates(history(8)))
    fewer = [update._replace(coefficients=update.coefficients[:4]) for update in some]
    order = [each for pair in zip(some, fewer, strict=True) for each in pair]
    sums = []
    for serves, separate in [(True, False), (False, False), (True, True)]:
        served = torch.zeros(18944, 3584, device="cuda", dtype=torch.bfloat16)
        adapted = AdaptedWeight(served, *made.tensors)
        weights = MergedWeights([adapted], made.scaling, TritonUpdates(torch.device("cuda")))
        weights.begin()
        for update in order:
            if separate:
                weights._updates = TritonUpdates(torch.device("cuda"))
            weights.add([update], perturbation, serves)
        weights.write(base=False)
        sums.append((weights.checksum(), weights.change(0).clone()))
    assert sums[0][0] == sums[1][0] == sums[2][0] != 0
    assert torch.equal(sums[0][1], sums[1][1]) and torch.equal(sums[0][1], sums[2][1])


def config(ranks: int, **values):
    return load(preset="tiny-chat-0.1.0").replace(
        lora={"form": "merged", "rank": 2},
        engine__kind="sglang",
        engine__shard=10,
        engine__deterministic=True,
        engine__tensor_parallel=ranks,
        engine__sglang=sglang_settings(),
        model__dtype="float16",
        evolution__population=10,
        evolution__learning_rate=2.0,
        evolution__update_scale="sigma",
        evolution__weight_decay=0.02,
        evolution__noise={"kind": "relative", "relative": 0.4},
        **values,
    )


def engine_of(experiment: Experiment):
    from es_ray.engines.sglang.engine import SGLangEngine

    return SGLangEngine(experiment)


@pytest.fixture(scope="module", params=[1, 2], ids=["one GPU", "two GPUs"])
def setting(request):
    if torch.cuda.device_count() < request.param:
        pytest.skip("there is one GPU")
    experiment = Experiment(config(request.param))
    engine = engine_of(experiment)
    yield experiment, engine, experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    engine.close()


def reference_of(experiment: Experiment) -> Reference:
    return Reference(experiment.config.replace(model__path=experiment.source.path))


def states(strategy, reference: Reference, steps: int = 8) -> list:
    """Histories after each of so many updates, which the reference has as well at the end."""
    found = [strategy.initial()]
    for generation in range(steps):
        advantages = np.random.default_rng(generation).normal(size=strategy.population)
        found.append(strategy.updated(found[-1], generation, advantages, lambda: None))
        reference.update(generation, advantages)
    return [state[THETA] for state in found]


@NEEDS_SGLANG
def test_members_and_centres_answer_as_plain_models(setting, report):
    experiment, engine, strategy = setting
    reference = reference_of(experiment)
    centres = states(strategy, reference)
    asked = [centres[8], centres[0]]
    variants = [
        *(Variant(m, 8) for m in (0, 1, 4, 7)),
        Variant(CENTRE, 8),
        Variant(3, 8, 0, 2.0),
        Variant(BASE),
    ]
    prompts = experiment.prompt_ids["test"][:8]
    rows = [Row(variant, prompt) for variant in variants for prompt in prompts]
    rows += [Row(Variant(CENTRE, 0, 1), prompt) for prompt in prompts]
    answers = [completion.token_ids for completion in engine.generate(asked, strategy.perturbation, rows)]
    same, gaps = 0, []
    for variant in variants:
        model = reference.model(variant)
        for row, mine in zip(rows, answers, strict=True):
            if row.variant != variant:
                continue
            ids = list(row.prompt_ids)
            theirs = plain_peft.greedy(
                model, ids, sorted(engine.stop_ids), experiment.config.task.max_new_tokens
            )
            same += mine == theirs
            if mine != theirs:
                at = next(i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y)
                scores = plain_peft.logits(model, [*ids, *theirs[:at]])[-1]
                gaps.append(abs(float(scores[mine[at]] - scores[theirs[at]])))
    total = len(variants) * len(prompts)
    drift = engine.drift(centres[8], strategy.perturbation)
    report(equal=same, total=total, gaps=gaps, drift=drift, seconds=engine.merged.seconds)
    assert same >= 0.85 * total
    assert max(gaps, default=0.0) <= NEAR_TIE
    assert answers[-8:] == answers[48:56]  # the centre before any update is the base model
    assert len({tuple(map(tuple, answers[low : low + 8])) for low in range(0, 56, 8)}) == 7
    assert drift == pytest.approx(reference.drift(), rel=1e-3)


@NEEDS_SGLANG
def test_both_engines_answer_alike_on_a_real_model(real_model, report):
    """SmolLM2 after eight updates: members, centre and base, against the transformers engine in float32."""
    from es_ray.engines.hf.engine import TransformersEngine

    values = {"model.path": real_model, "model.dtype": "float16", "evolution.weight_decay": 0.02}
    run = load(preset="smollm2-135m", flags=values).replace(
        lora__form="merged", lora__rank=2, evolution__population=10, engine__shard=10
    )
    theirs = TransformersEngine(Experiment(run.replace(model__dtype="float32")))
    experiment = Experiment(run.replace(engine__kind="sglang", engine__sglang=sglang_settings()))
    engine = engine_of(experiment)
    strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
    state = strategy.initial()
    for generation in range(8):
        advantages = np.random.default_rng(generation).normal(size=strategy.population)
        state = strategy.updated(state, generation, advantages, lambda: None)
    asked, prompts = [state[THETA]], experiment.prompt_ids["test"][:16]
    variants = [*(Variant(m, 8) for m in range(6)), Variant(CENTRE, 8), Variant(BASE)]
    rows = [Row(variant, prompt) for variant in variants for prompt in prompts]
    answers = [
        [completion.token_ids for completion in each.generate(asked, strategy.perturbation, rows)]
        for each in (engine, theirs)
    ]
    apart = [
        (row, next(i for i, (x, y) in enumerate(zip(*pair, strict=False)) if x != y), pair)
        for row, *pair in zip(rows, *answers, strict=True)
        if pair[0] != pair[1]
    ]
    gaps = []
    for row, at, pair in apart:
        one, other = theirs.log_probs(
            asked, strategy.perturbation, [row, row], [ids[: at + 1] for ids in pair]
        )
        gaps.append(abs(float(one[at] - other[at])))
    drifts = [each.drift(asked[0], strategy.perturbation) for each in (engine, theirs)]
    engine.close()
    theirs.close()
    report(equal=len(rows) - len(apart), total=len(rows), gaps=gaps, drifts=drifts)
    assert len(apart) <= 0.15 * len(rows)
    assert max(gaps, default=0.0) <= NEAR_TIE
    of_variants = {tuple(map(tuple, answers[0][low : low + 16])) for low in range(0, len(rows), 16)}
    assert len(of_variants) == len(variants), "each model answers in its own way"
    assert drifts[0] == pytest.approx(drifts[1], rel=1e-3)


@NEEDS_SGLANG
def test_a_late_engine_has_the_same_weights_and_a_rollback_goes_back(setting):
    experiment, engine, strategy = setting
    centres = states(strategy, reference_of(experiment))
    prompts = experiment.prompt_ids["test"][:4]

    def answer(engine, generation: int) -> list[list[int]]:
        rows = [Row(Variant(who, generation), prompt) for who in (0, CENTRE) for prompt in prompts]
        return [c.token_ids for c in engine.generate([centres[generation]], strategy.perturbation, rows)]

    found = {}
    for generation in (1, 2, 3, 4, 5, 8, 3):  # the last one goes back
        found[generation, len(found)] = answer(engine, generation), engine.checksum()
    assert found[3, 2] == found[3, 6]
    rows = [Row(Variant(BASE), prompt) for prompt in prompts]
    engine.generate([centres[8]], strategy.perturbation, rows)
    base = engine.checksum()
    answer(engine, 8)
    last = engine.checksum()
    if experiment.config.engine.tensor_parallel == 1:
        other = engine_of(experiment)
        assert answer(other, 8) == answer(engine, 8)
        assert other.checksum() == last != base
        other.generate([centres[8]], strategy.perturbation, rows)
        assert other.checksum() == base
        other.close()


@NEEDS_SGLANG
def test_a_run_learns_and_a_resumed_one_is_the_same(tmp_path):
    def run(folder, generations: int, *more: str) -> None:
        settings = [
            "engine.deterministic=true", f"engine.sglang={json.dumps(sglang_settings())}", "lora.form=merged",
            "evolution.update_scale=sigma", "evolution.learning_rate=2", "output.plots_every=null",
            "evaluation.kl_every=5",
        ]  # fmt: skip
        sets = [part for setting in settings for part in ("--set", setting)]
        arguments = ["--engine", "sglang", "--workers", "1", "--generations", generations, "--output", folder]
        done = subprocess.run(
            command("run", *arguments, *sets, *more), capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]

    run(tmp_path / "whole", 20)
    run(tmp_path / "parts", 10)
    run(tmp_path / "parts", 20, "--resume")
    lines = [json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    volatile = {"seconds", "tokens_per_second", "workers", "redispatched", "time"}
    kept = [[{k: v for k, v in line.items() if k not in volatile} for line in each] for each in lines]
    assert kept[0] == kept[1]
    results = json.loads((tmp_path / "whole/test_results.json").read_text())
    assert results["centre"]["reward"] > results["base"]["reward"] + 20
    assert kept[0][-1]["drift"] > 0
    assert kept[0][15]["kl_forward"] > 0
