"""The calls into the scheduler's process, through real shared memory, on a pool like SGLang's, on the CPU."""

import numpy as np
import pytest
import torch

from es_ray.engines.base import CENTRE, Variant
from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.finite_logits import logits_check
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, group_arrays, noise_values
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.slots import AdapterGroup
from es_ray.errors import RunError
from tests.engines.sglang.fake_sglang import LAYOUT, WEIGHTS, FakeEngine
from tests.engines.sglang.test_pool_layout import SLOTS, perturbation

THETA = np.random.default_rng(5).normal(size=LAYOUT.size).astype(np.float32)
PERTURBATION = perturbation(LAYOUT.size)


@pytest.fixture(params=[1, 2])
def client(request):
    made = SchedulerClient(request.param, LAYOUT.size, members=8, segments=40, reply=LAYOUT.size)
    made.engine = FakeEngine(request.param)
    yield made
    made.close()


def write(client, theta, generation: int, members: list[int], factors=None, slots=None) -> list[Message]:
    factors, slots = factors or [1.0] * len(members), slots or range(len(members))
    adapters = tuple(Variant(m, generation, 0, f) for m, f in zip(members, factors, strict=True))
    arrays = group_arrays(AdapterGroup(0, generation, adapters, tuple(slots)), PERTURBATION.scale(generation))
    values = noise_values(PERTURBATION, generation) | client.centre_values(theta)
    return client.call("write_adapters", Message(values, arrays))


def digests(*arguments, **named) -> list[list[int]]:
    return [answer.arrays["digests"].tolist() for answer in write(*arguments, **named)]


def test_it_describes_the_model(client):
    answers = client.call("describe")
    sums = np.sum([a.arrays["abs_sums"] for a in answers], axis=0)
    counts = np.sum([a.arrays["entries"] for a in answers], axis=0)
    wanted = [WEIGHTS[m.name].abs().double().mean().item() for m in LAYOUT.modules]
    assert (sums / counts).tolist() == pytest.approx(wanted, rel=1e-6)
    squares = np.sum([a.arrays["square_sums"] for a in answers], axis=0)
    means = [WEIGHTS[m.name].double().square().mean().item() for m in LAYOUT.modules]
    assert (squares / counts).tolist() == pytest.approx(means, rel=1e-6)
    assert answers[0].values["dtype"] == "float16"


def test_members_are_written_with_the_theta_that_was_sent(client):
    first = digests(client, THETA, 3, [0, 4, CENTRE])
    assert all(len(set(of_rank)) == 3 for of_rank in first)
    manager = client.engine.managers[0]
    slot = manager.memory_pool.uid_to_buffer_id["id1"]
    member = PERTURBATION.member(THETA, 3, 4)
    a, _ = LAYOUT.matrices(member.astype(np.float16))["model.layers.1.mlp.up_proj"]
    assert np.array_equal(manager.memory_pool.A_buffer["gate_up_proj"][1][slot, LAYOUT.rank :].numpy(), a)
    other = digests(client, THETA * 2, 3, [0, 4, CENTRE])
    assert all(x != y for one, two in zip(first, other, strict=True) for x, y in zip(one, two, strict=True))
    assert digests(client, THETA, 3, [0, 4, CENTRE]) == first
    assert digests(client, THETA, 3, [])[0] == []


def test_members_are_written_to_the_slots_of_the_call(client):
    first = digests(client, THETA, 3, [0, 4], slots=[5, 2])
    assert digests(client, THETA, 3, [4, 0, 1], slots=[0, 3, 1])[0][:2] == first[0][::-1]
    if len(client.engine.managers) == 1:
        wanted = LAYOUT.matrices(PERTURBATION.member(THETA, 3, 4).astype(np.float16))
        for found in (client.engine.managers[0].matrices(adapter_name(n)) for n in (0, 2)):
            assert all(np.array_equal(a, wanted[name][0]) for name, (a, _) in found.items())


def test_a_factor_scales_sigma_and_one_changes_nothing(client):
    plain = digests(client, THETA, 3, [0, 4, CENTRE])
    assert digests(client, THETA, 3, [0, 4, CENTRE], factors=[1.0, 0.5, 3.0])[0][::2] == plain[0][::2]
    if len(client.engine.managers) == 1:
        wanted = LAYOUT.matrices(PERTURBATION.member(THETA, 3, 4, 0.5).astype(np.float16))
        found = client.engine.managers[0].matrices(adapter_name(1))
        for name, pair in found.items():
            for mine, right in zip(pair, wanted[name], strict=True):
                assert np.allclose(mine.astype(np.float32), right.astype(np.float32), rtol=2**-10, atol=1e-6)


def test_logits_from_before_a_write_are_forgotten(client):
    logits, tokens = torch.tensor([[torch.nan, 0.0]]), torch.tensor([0])
    logits_check.observe(logits, tokens)
    write(client, THETA, 0, [0])
    assert client.call("finite")[0].values["finite"] is True
    logits_check.observe(logits, tokens)
    assert client.call("finite")[0].values["finite"] is False


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_noise_sum_is_the_perturbations(client, antithetic):
    p, advantages = perturbation(LAYOUT.size, antithetic), np.random.default_rng(0).normal(size=6)
    values = noise_values(p, 2) | {"start": 5, "stop": 300}
    message = Message(values, {"advantages": advantages.astype(np.float32)})
    answers = client.call("noise_sum", message)
    found = answers[0].arrays["noise_sum"]
    assert found.dtype == np.float32
    assert np.abs(found - p.noise_sum(2, advantages, 5, 300)).max() < 1e-5
    assert all(not answer.arrays for answer in answers[1:])


def test_a_call_to_a_busy_scheduler_is_retried(client):
    client.engine.busy = 5
    write(client, THETA, 0, [0])
    assert client.engine.busy < 0


def test_failures_in_the_scheduler_are_reported_to_the_caller(client):
    with pytest.raises(RunError, match="write_adapters: KeyError"):
        write(client, THETA, 0, list(range(SLOTS)))  # more than there are adapters
    values = noise_values(PERTURBATION, 0) | client.centre_values(THETA + 1)
    client._theta._memory.buf[2000] ^= 1
    adapters = AdapterGroup(0, 0, (Variant(0),), (0,))
    with pytest.raises(RunError, match="DamagedMessage.*checksum"):
        client.call("write_adapters", Message(values, group_arrays(adapters, PERTURBATION.scale(0))))


def test_the_largest_call_fits():
    client = SchedulerClient(1, LAYOUT.size, members=500, segments=2 * len(LAYOUT.modules) + 1, reply=10)
    sizes = np.linspace(0, LAYOUT.size, 2 * len(LAYOUT.modules) + 2).astype(int)[1:]
    sigma = type(PERTURBATION.sigma)(tuple(sizes.tolist()), (0.5,) * len(sizes))
    adapters = tuple(Variant(n, 2**32 - 1, 9, 0.1) for n in range(500))
    arrays = group_arrays(AdapterGroup(9, 2**32 - 1, adapters, tuple(range(500))), sigma)
    client._request.write(
        Message(noise_values(PERTURBATION, 2**32 - 1) | client.centre_values(THETA), arrays)
    )
    arrays = {"advantages": np.zeros(500, np.float32)}
    client._request.write(Message(noise_values(PERTURBATION, 2**32 - 1), arrays))
    client.close()
