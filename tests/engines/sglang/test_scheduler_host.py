"""The calls into the scheduler's process, through real channel, on a pool like SGLang's, on the CPU.

The scheduler here is a stand-in for SGLang's, with the names of compat.NAMES; what is tested is what ours
does with it. tests/gpu has the real one.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.finite_logits import watch
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, sigma_arrays
from es_ray.engines.sglang.ipc.scheduler_host import Options, SchedulerHost
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.lora.pool_layout import FUSED, fused_name
from es_ray.errors import RunError
from tests.engines.sglang.test_pool_layout import FULL, SLOTS, WIDTH, layout, share, strategy

LAYOUT = layout(2)
KEYS = sorted({(fused_name(m)[0], m.layer) for m in LAYOUT.modules})
WEIGHTS = {m.name: torch.randn(m.out_features, m.in_features) for m in LAYOUT.modules}


class Wrapped:
    """A module with LoRA: its base layer, and how it slices for its rank."""

    def __init__(self, fused: str, layer: int, rank: int, ranks: int) -> None:
        self._share = share(fused, rank, ranks)
        parts = [
            WEIGHTS[next(m.name for m in LAYOUT.modules if m.layer == layer and m.name.endswith(p))]
            for p in FUSED[fused]
        ]
        full = torch.cat(parts)
        self.base_layer = SimpleNamespace(
            weight=full[self._share.rows][:, self._share.columns],
            num_kv_head_replicas=1,
            output_sizes=list(FULL[fused]),
            output_size=sum(FULL[fused]),
            input_size=WIDTH[fused],
        )

    def slice_lora_a_weights(self, a):
        return a[:, self._share.columns]

    def slice_lora_b_weights(self, b):
        return b[self._share.rows]


class FakeManager:
    dtype = torch.float16

    def __init__(self, rank: int, ranks: int) -> None:
        self.lora_modules: list[dict] = [{}, {}]
        a, b = {}, {}
        for fused, layer in KEYS:
            part = share(fused, rank, ranks)
            self.lora_modules[layer][f"model.layers.{layer}.x.{fused}"] = Wrapped(fused, layer, rank, ranks)
            a.setdefault(fused, []).append(
                torch.zeros(SLOTS, len(FUSED[fused]) * LAYOUT.rank, len(part.columns), dtype=self.dtype)
            )
            b.setdefault(fused, []).append(torch.zeros(SLOTS, len(part.rows), LAYOUT.rank, dtype=self.dtype))
        self.lora_refs = {f"id{n}": SimpleNamespace(lora_name=adapter_name(n)) for n in range(SLOTS - 1)}
        self.memory_pool = SimpleNamespace(A_buffer=a, B_buffer=b, uid_to_buffer_id={})

    def fetch_new_loras(self, ids):
        order = sorted(ids, key=lambda uid: (uid is not None, uid or ""))
        self.memory_pool.uid_to_buffer_id = {uid: SLOTS - 1 - place for place, uid in enumerate(order)}


class FakeEngine:
    """Hands a call to every rank's host, as SGLang does, and says no more than that it was made."""

    def __init__(self, ranks: int) -> None:
        self.busy = 0
        self.managers = [FakeManager(rank, ranks) for rank in range(ranks)]
        self.hosts = []
        for rank, manager in enumerate(self.managers):
            runner = SimpleNamespace(model=torch.nn.Linear(3, 4), lora_manager=manager)
            scheduler = SimpleNamespace(
                flush_cache=self.flush,
                model_config=SimpleNamespace(hf_eos_token_id={9}),
                tp_worker=SimpleNamespace(model_runner=runner),
            )
            self.hosts.append(SchedulerHost(scheduler, rank, Options(LAYOUT, ranks, (2, 5), "")))
            assert scheduler.model_config.hf_eos_token_id == {2, 5}

    def flush(self, empty_cache: bool) -> bool:
        self.busy -= 1
        return self.busy < 0

    def collective_rpc(self, method: str, **scalars) -> None:
        assert method == "es_ray_call"
        assert all(isinstance(value, (str, int)) for value in scalars.values())
        for host in self.hosts:
            host.call(**scalars)


@pytest.fixture(params=[1, 2])
def link(request):
    made = SchedulerClient(request.param, LAYOUT.size, members=8, segments=40, reply=LAYOUT.size)
    made.engine = FakeEngine(request.param)
    yield made
    made.close()


def place(link: SchedulerClient, theta, s, generation: int, candidates: list[int]) -> list[Message]:
    arrays = {"candidates": np.array(candidates), **sigma_arrays(s.scale(generation))}
    return link.call("write_adapters", Message(link.about(theta, s, generation), arrays))


def test_it_describes_the_model(link):
    answers = link.call("describe")
    sums = np.sum([a.arrays["abs_sums"] for a in answers], axis=0)
    counts = np.sum([a.arrays["entries"] for a in answers], axis=0)
    wanted = [WEIGHTS[m.name].abs().double().mean().item() for m in LAYOUT.modules]
    assert (sums / counts).tolist() == pytest.approx(wanted, rel=1e-6)
    assert answers[0].values["dtype"] == "float16"


def test_members_are_placed_with_the_theta_that_was_sent(link):
    s = strategy(LAYOUT.size)
    theta = s.initial()
    first = [a.arrays["digests"].tolist() for a in place(link, theta, s, 3, [0, 4, -1])]
    assert all(len(set(digests)) == 3 for digests in first)
    manager = link.engine.managers[0]
    slot = manager.memory_pool.uid_to_buffer_id["id1"]
    member = s.member(theta, 3, 4)
    a, _ = LAYOUT.matrices(member.astype(np.float16))["model.layers.1.mlp.up_proj"]
    assert np.array_equal(manager.memory_pool.A_buffer["gate_up_proj"][1][slot, LAYOUT.rank :].numpy(), a)
    other = [a.arrays["digests"].tolist() for a in place(link, theta * 2, s, 3, [0, 4, -1])]
    assert all(x != y for one, two in zip(first, other, strict=True) for x, y in zip(one, two, strict=True))
    assert [a.arrays["digests"].tolist() for a in place(link, theta, s, 3, [0, 4, -1])] == first
    assert place(link, theta, s, 3, [])[0].arrays["digests"].tolist() == []


def test_logits_from_before_a_placing_are_forgotten(link):
    s = strategy(LAYOUT.size)
    logits, tokens = torch.tensor([[torch.nan, 0.0]]), torch.tensor([0])
    watch.look(logits, tokens)
    place(link, s.initial(), s, 0, [0])
    assert link.call("finite")[0].values["finite"] is True
    watch.look(logits, tokens)
    assert link.call("finite")[0].values["finite"] is False


@pytest.mark.parametrize("scale", ["absolute", "sigma"])
def test_the_update_is_the_strategys(link, scale):
    s = strategy(LAYOUT.size)
    theta, advantages = s.initial(), np.random.default_rng(0).normal(size=6)
    values = link.about(theta, s, 2) | {"start": 5, "stop": 300, "step": s.learning_rate / 6}
    arrays = {"advantages": advantages.astype(np.float32)}
    if scale == "sigma":
        arrays |= sigma_arrays(s.scale(2))
    found = link.call("tell", Message(values, arrays))[0].arrays["theta"]
    object.__setattr__(s, "update_scale", scale)
    assert np.abs(found - s.tell(theta, 2, advantages, 5, 300)).max() < 1e-6


def test_a_busy_scheduler_is_asked_again(link):
    link.engine.busy = 5
    s = strategy(LAYOUT.size)
    place(link, s.initial(), s, 0, [0])
    assert link.engine.busy < 0


def test_what_fails_there_is_told_here(link):
    s = strategy(LAYOUT.size)
    with pytest.raises(RunError, match="place: IndexError|place: KeyError"):
        place(link, s.initial(), s, 0, list(range(SLOTS)))  # more than there are adapters
    values = link.about(s.initial() + 1, s, 0)
    link._theta._memory.buf[2000] ^= 1
    with pytest.raises(RunError, match="DamagedMessage.*checksum"):
        link.call("tell", Message(values))
