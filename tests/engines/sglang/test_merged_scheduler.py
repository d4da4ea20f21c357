"""Form merged in the scheduler's processes, through real shared memory, against sums in float64."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.engines.merged_centre import MergedCentre
from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.ipc.merged_client import SchedulerWeights, most_updates
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient
from es_ray.engines.sglang.ipc.scheduler_host import Options
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.lora.pool_layout import FUSED, fused_name
from es_ray.errors import RunError
from es_ray.evolution.merged import updates
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.schedules import Schedule
from es_ray.lora.changes_file import write_changes
from es_ray.lora.checkpoints import CHANGES, Checkpoints, description
from es_ray.workers.kl import base_samples, forward_kl_sums
from tests.engines.sglang.fake_sglang import LAYOUT, WEIGHTS, FakeEngine
from tests.engines.sglang.test_engine import PROMPTS, sglang_engine
from tests.engines.sglang.test_pool_layout import FULL, tp_slice

MERGED = replace(LAYOUT, form="merged")
POPULATION = 6
ENDS = tuple(part.stop for part in MERGED.tensors)
SIGMAS = tuple(0.0 if part.matrix == "A" else 0.01 * (2 + n % 3) for n, part in enumerate(MERGED.tensors))


def fresh(antithetic: bool = True) -> Perturbation:
    schedule = Schedule(kind="linear", to=0.5, over=4)
    sigma = PiecewiseConstant(ENDS, SIGMAS)
    return Perturbation(Noise(2**50 + 3, antithetic), sigma, schedule=schedule, fresh=True)


def history(generations: int, kept: float = 0.95) -> np.ndarray:
    """Generation 1 moved nothing."""
    drawn = np.random.default_rng(8).normal(size=(generations, POPULATION + 1))
    drawn[:, -1] = kept
    drawn[1:2] = [*[0.0] * POPULATION, 1.0]
    return drawn


def wanted(updates: np.ndarray, perturbation: Perturbation) -> dict[str, np.ndarray]:
    """W_0 + D of each projection, in float64, from whole members."""
    change = {name: np.zeros(weight.shape) for name, weight in WEIGHTS.items()}
    for generation, (*coefficients, kept) in enumerate(updates):
        members = perturbation.fresh_members(generation, range(POPULATION), 0, MERGED.size).astype(np.float64)
        for name, (a, b) in MERGED.matrices(members).items():
            change[name] *= kept
            change[name] += np.einsum("i,ior,irn->on", coefficients, b, a) / MERGED.rank**0.5
    return {name: WEIGHTS[name].double().numpy() + each for name, each in change.items()}


def served(engine: FakeEngine) -> list[dict[str, np.ndarray]]:
    """Each rank's weights by fused module and layer."""
    return [
        {
            name: module.base_layer.weight.double().numpy()
            for layer in m.lora_modules
            for name, module in layer.items()
        }
        for m in engine.managers
    ]


def sliced(weights: dict[str, np.ndarray], ranks: int) -> list[dict[str, np.ndarray]]:
    """The same of whole projections."""
    found = []
    for rank in range(ranks):
        parts = {}
        for module in MERGED.modules:
            fused, _ = fused_name(module)
            of_rank = tp_slice(fused, rank, ranks)
            names = [
                next(n for n in weights if f".{module.layer}." in n and n.endswith(p)) for p in FUSED[fused]
            ]
            whole = np.concatenate([weights[name] for name in names])
            assert len(whole) == sum(FULL[fused])
            parts[f"model.layers.{module.layer}.x.{fused}"] = whole[of_rank.rows][:, of_rank.columns]
        found.append(parts)
    return found


@pytest.fixture(params=[1, 2])
def scheduler(request):
    client = SchedulerClient(request.param, MERGED.size, members=8, segments=40, reply=MERGED.size, updates=2)
    client.engine = FakeEngine(request.param, Options(MERGED, request.param, ""))
    yield SchedulerWeights(client, MERGED.modules), client.engine, request.param
    client.close()


def assert_same(found: list[dict], right: list[dict], tolerance: float) -> None:
    for one, other in zip(found, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert np.abs(one[name] - other[name]).max() <= tolerance * np.abs(other[name]).max()


@pytest.mark.parametrize("antithetic", [True, False])
def test_updates_are_added_to_each_ranks_part_of_the_weights(scheduler, antithetic):
    weights, engine, ranks = scheduler
    before, centre, perturbation = served(engine), MergedCentre(weights), fresh(antithetic)
    first = weights.checksum()
    for generations in (1, 2, 5, 3):  # the last is a rollback
        updates = history(generations)
        centre.show(updates, perturbation)
        right = wanted(updates, perturbation)
        assert_same(served(engine), sliced(right, ranks), 1e-6)
        change = [right[name] - WEIGHTS[name].double().numpy() for name in right]
        norms = [
            np.sqrt(sum(float(np.square(np.asarray(m)).sum()) for m in part))
            for part in (change, WEIGHTS.values())
        ]
        assert centre.drift(updates, perturbation) == pytest.approx(norms[0] / norms[1], rel=2e-5)
    assert weights.checksum() != first
    centre.show(updates[:0], perturbation)
    assert weights.checksum() == first
    assert_same(served(engine), before, 0.0)
    centre.show(history(3), perturbation)
    assert_same(served(engine), sliced(wanted(history(3), perturbation), ranks), 1e-6)


def test_the_same_history_gives_the_same_bits_however_it_was_reached(scheduler):
    weights, engine, _ = scheduler
    perturbation, last = fresh(), history(6)
    step_by_step = MergedCentre(weights)
    for generations in range(1, 7):
        step_by_step.show(last[:generations], perturbation)
    found, checksum = served(engine), step_by_step.checksum()
    at_once = MergedCentre(weights)
    at_once.show(last, perturbation)
    assert at_once.checksum() == checksum
    assert_same(served(engine), found, 0.0)


def test_what_is_there_is_not_added_again(scheduler):
    weights, engine, _ = scheduler
    centre, perturbation = MergedCentre(weights), fresh()
    engine.calls.clear()
    for _ in range(3):
        centre.show(history(3), perturbation)
    assert len(engine.calls) == 1 + 1  # begin, then both generations that moved something
    centre.show(history(8), perturbation)
    assert len(engine.calls) == 2 + 3  # five more, two in a call


@pytest.mark.parametrize("population", [2, 4096, 300_000, 1_000_000])
def test_the_channel_fits_into_a_containers_shared_memory(population):
    client = SchedulerClient(1, 8, population, segments=393, reply=8, updates=most_updates(population))
    size = client._request.size
    client.close()
    assert size < 32 << 20  # of 64 MiB, which a container has by default
    assert most_updates(population) == (32 if population < 30_000 else 3 if population < 1e6 else 1)


@pytest.mark.parametrize("modules", [1, 196])
def test_as_many_updates_as_go_into_a_call_fit_into_the_channel(modules):
    """Each with as many pieces of sigma and members as there can be; generation 0 with a sigma of its own."""
    pieces, population = 2 * modules + 1, 5
    client = SchedulerClient(1, 8, population, segments=pieces, reply=8, updates=32)
    ends = tuple(range(1, pieces + 1))
    perturbation = Perturbation(
        Noise(2**63 + 5),
        PiecewiseConstant(ends, tuple(0.1 * end for end in ends)),
        first_sigma=PiecewiseConstant((pieces,), (0.5,)),
        fresh=True,
    )
    given = np.random.default_rng(1).normal(size=(65, population + 1))
    received = []

    def call(what: str, message: Message) -> list[Message]:
        checksum = client._request.write(message)
        received.append(client._request.read(checksum))
        return [Message({"seconds": 0.0})]

    client.call = call
    SchedulerWeights(client, MERGED.modules).add(list(updates(given)), perturbation, serve=True)
    client.close()
    assert [message.values["serve"] for message in received] == [False, False, True]
    assert [len(message.arrays["pieces"]) for message in received] == [32, 32, 1]
    assert received[0].arrays["pieces"].tolist() == [1, *[pieces] * 31]
    found = np.concatenate([message.arrays["coefficients"] for message in received])
    assert np.array_equal(found, given[:, :-1])


def test_an_update_that_fails_is_not_taken_for_done(scheduler):
    weights, engine, _ = scheduler
    centre, perturbation = MergedCentre(weights), fresh()
    centre.show(history(2), perturbation)
    updates = engine.hosts[0]._merged._weights._updates
    add, calls = updates.add, []

    def fail_in_the_middle(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise MemoryError("no more")
        add(*arguments)

    updates.add = fail_in_the_middle
    for _ in range(2):  # the second time nothing fails
        try:
            centre.show(history(3), perturbation)
        except RunError as error:
            assert "merged: MemoryError: no more" in str(error)
    assert_same(served(engine), sliced(wanted(history(3), perturbation), len(engine.managers)), 1e-6)


@pytest.mark.parametrize("shown", ["base", "changed"])
def test_weights_that_an_update_left_half_written_are_not_served(scheduler, shown):
    weights, engine, ranks = scheduler
    before, centre, perturbation = served(engine), MergedCentre(weights), fresh()
    checksum = centre.checksum()
    if shown == "changed":
        centre.show(history(2), perturbation)
    else:
        centre.show(history(0), perturbation)
        weights.begin()  # so that the host has its weights
    updates = engine.hosts[-1]._merged._weights._updates
    add = updates.add

    def fail_after_a_matrix(matrices, *arguments):
        *_, serve = arguments
        add(matrices[:1] if serve else matrices, *arguments)
        if serve:
            raise MemoryError("no more")

    updates.add = fail_after_a_matrix
    with pytest.raises(RunError, match="no more"):
        centre.show(history(3), perturbation)
    updates.add = add
    centre.show(history(0), perturbation)
    assert_same(served(engine), before, 0.0)
    assert centre.checksum() == checksum
    centre.show(history(3), perturbation)
    assert_same(served(engine), sliced(wanted(history(3), perturbation), ranks), 1e-6)


def test_weights_of_the_base_model_half_written_are_not_served(scheduler, monkeypatch):
    weights, engine, ranks = scheduler
    centre, perturbation = MergedCentre(weights), fresh()
    centre.show(history(3), perturbation)
    host = engine.hosts[-1]._merged

    def fail_after_writing(base):
        write(base)
        raise MemoryError("no more")

    write, host._weights.write = host._weights.write, fail_after_writing
    with pytest.raises(RunError, match="no more"):
        centre.show(history(0), perturbation)
    host._weights.write = write
    centre.show(history(3), perturbation)
    assert_same(served(engine), sliced(wanted(history(3), perturbation), ranks), 1e-6)


def checkpoint_after(centre: MergedCentre, generations: int, folder: Path) -> Path:
    """Written from the ranks' parts."""
    path, updates = folder / f"{generations:04d}" / CHANGES, history(generations)
    path.parent.mkdir()
    matrices = (centre.change(updates, fresh(), number) for number in range(len(MERGED.modules)))
    write_changes(path, MERGED, matrices, description(updates, fresh(), MERGED))
    return path


def test_ranks_parts_are_put_together(scheduler):
    weights, _, _ = scheduler
    centre, updates = MergedCentre(weights), history(4)
    right = wanted(updates, fresh())
    for pieces in (MERGED.size, 7):
        weights._client.reply = pieces  # entries in a reply
        for number, module in enumerate(MERGED.modules):
            change = right[module.name] - WEIGHTS[module.name].double().numpy()
            found = centre.change(updates, fresh(), number)
            assert found.dtype == np.float32 and found.shape == change.shape
            assert np.abs(found - change).max() <= 1e-5 * np.abs(change).max()


@pytest.mark.parametrize("damaged", ["", "torn", "edited"])
def test_each_rank_reads_its_part_of_a_checkpoint(scheduler, damaged, tmp_path, caplog):
    """From there on, or around a damaged one, the bits of a replay from the beginning."""
    weights, engine, _ = scheduler
    straight, last = MergedCentre(weights), history(6)
    path = checkpoint_after(straight, 4, tmp_path)
    straight.show(last, fresh())
    found, checksum = served(engine), straight.checksum()
    content = bytearray(path.read_bytes())
    content[-10] ^= damaged == "edited"
    path.write_bytes(content[:-1] if damaged == "torn" else content)
    straight.show(history(1) + 1, fresh())  # away from there
    replayed = MergedCentre(weights, Checkpoints(tmp_path, MERGED))
    calls = len(engine.calls)
    replayed.show(last, fresh())
    assert replayed.checksum() == checksum
    assert_same(served(engine), found, 0.0)
    # load and two updates, or, after a try to load it if its header is whole, the beginning and five; two
    # updates in a call
    assert len(engine.calls) - calls == {"": 2, "torn": 4, "edited": 5}[damaged] + 1
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(said) == bool(damaged) and all(str(path) in line for line in said)


def test_members_are_fresh_noise_beside_the_centres_weights(monkeypatch, tmp_path):
    """Rows of several centres in one call: each asked of its own weights, and centres without an adapter."""
    perturbation = fresh()
    engine = sglang_engine(monkeypatch, tmp_path, "0.5.17", MERGED)
    centres = [history(3), history(1), history(0)]
    variants = [
        Variant(1, 3, 0), Variant(CENTRE, 3, 0), Variant(BASE), Variant(0, 1, 1), Variant(1, 1, 1, 0.5),
        Variant(CENTRE, 1, 1), Variant(4, 0, 2), Variant(CENTRE, 0, 2),
    ]  # fmt: skip
    rows = [Row(variant, prompt) for variant in variants for prompt in PROMPTS]
    fake = engine.fake
    answers = [c.token_ids for c in engine.generate(centres, perturbation, rows)]
    asked = [request["lora_path"] for request in fake.requests]
    assert [path.count(None) for path in asked] == [4, 2, 2]  # the base model's weights first
    # each answer once more, from weights and adapters that are set here
    for number, row in enumerate(rows):
        updates = centres[row.variant.centre] if row.variant.member != BASE else history(0)
        engine._merged_centre.show(updates, perturbation)
        name = None
        if row.variant.member >= 0:
            name = adapter_name(0)
            member = perturbation.fresh_members(
                row.variant.generation, [row.variant.member], 0, MERGED.size, [row.variant.sigma_factor]
            )[0]
            set_adapter(fake, name, member)
        right = fake._tokens(list(row.prompt_ids), name, {"max_new_tokens": 5, "temperature": 0})
        assert answers[number] == right, row
    engine.close()


def set_adapter(fake: FakeEngine, name: str, member: np.ndarray) -> None:
    pool = fake.managers[0].memory_pool
    slot = pool.uid_to_buffer_id[
        next(k for k, r in fake.managers[0].lora_refs.items() if r.lora_name == name)
    ]
    for module_name, (a, b) in MERGED.matrices(member.astype(np.float16)).items():
        module = next(m for m in MERGED.modules if m.name == module_name)
        fused, number = fused_name(module)
        pool.A_buffer[fused][module.layer][slot].split(MERGED.rank)[number].copy_(torch.from_numpy(a))
        pool.B_buffer[fused][module.layer][slot].split(FULL[fused])[number].copy_(torch.from_numpy(b))


def test_the_base_model_is_sampled_once_and_read_by_later_weights(monkeypatch, tmp_path):
    """Against the stand-in's own log-probabilities; no measurement takes the weights back to the base's."""
    engine, noise = sglang_engine(monkeypatch, tmp_path, "0.5.17", MERGED), fresh()
    rows = [Row(Variant(BASE), prompt, Sampling(7)) for prompt in PROMPTS]
    samples = base_samples(engine, noise, rows, 1, None)
    fake, written = engine.fake, []
    for sample in samples:
        context = [*sample.prompt_ids]
        for token, found in zip(sample.token_ids, sample.log_probs, strict=True):
            assert found == pytest.approx(fake.log_prob(context, token, None), abs=1e-5)
            context.append(token)
    write = SchedulerWeights.write
    monkeypatch.setattr(SchedulerWeights, "write", lambda *them: written.append(them) or write(*them))
    for generation in (2, 5):
        sums = forward_kl_sums(
            engine, history(generation), noise, Variant(CENTRE, generation), samples, 1, written.append
        )
        for (terms, tokens), sample in zip(sums, samples, strict=True):
            ids, start = [*sample.prompt_ids, *sample.token_ids], len(sample.prompt_ids)
            read = [fake.log_prob(ids[:at], ids[at], None) for at in range(start, len(ids))]
            log_rho = np.array(read) - sample.log_probs
            assert (
                tokens == 5
                and terms == pytest.approx((np.expm1(log_rho) - log_rho).sum(), rel=1e-4)
                and terms
            )
    assert written == [1, 2] * 2  # rows that were read, and no writing
    engine.close()
