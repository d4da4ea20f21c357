"""Members in a LoRA memory pool: the fused layout, tensor parallel slices, and what a pool then computes."""

from importlib.metadata import version

import numpy as np
import pytest
import torch

from es_ray.engines.sglang.lora.pool_layout import FUSED, Buffer, TPSlice, extents, fused_name
from es_ray.engines.sglang.lora.pool_writer import PoolWriter
from es_ray.engines.spec import parsed
from es_ray.errors import UserError
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.lora.layout import AdaptedModule, LoraLayout

HIDDEN, INNER, Q, KV = 12, 20, 16, 8
SIZES = {
    "self_attn.q_proj": (HIDDEN, Q), "self_attn.k_proj": (HIDDEN, KV), "self_attn.v_proj": (HIDDEN, KV),
    "self_attn.o_proj": (Q, HIDDEN), "mlp.gate_proj": (HIDDEN, INNER), "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}  # fmt: skip
FULL = {"qkv_proj": (Q, KV, KV), "o_proj": (HIDDEN,), "gate_up_proj": (INNER, INNER), "down_proj": (HIDDEN,)}
WIDTH = {"qkv_proj": HIDDEN, "o_proj": Q, "gate_up_proj": HIDDEN, "down_proj": INNER}
SLOTS = 7
ALL = tuple(SIZES)


def layout(rank: int, names=ALL, layers=(0, 1)) -> LoraLayout:
    modules = [
        AdaptedModule(f"model.layers.{layer}.{name}", layer, *SIZES[name])
        for layer in layers
        for name in names
    ]
    return LoraLayout(rank, 2.0, tuple(modules))


def tp_slice(fused: str, rank: int, ranks: int) -> TPSlice:
    """A rank's slice under tensor parallelism: rows of column-parallel modules, columns of the others."""
    outputs, columns = FULL[fused], np.arange(WIDTH[fused])
    if fused in ("o_proj", "down_proj"):
        return TPSlice(np.array_split(columns, ranks)[rank], np.arange(sum(outputs)), outputs)
    starts = np.cumsum([0, *outputs])
    rows = [
        np.array_split(np.arange(size) + start, ranks)[rank]
        for size, start in zip(outputs, starts[:-1], strict=True)
    ]
    return TPSlice(columns, np.concatenate(rows), outputs)


def unsharded(lay: LoraLayout) -> dict[tuple[str, int], TPSlice]:
    """The slices of a single rank."""
    keys = dict.fromkeys((fused_name(module)[0], module.layer) for module in lay.modules)
    return {(fused, layer): tp_slice(fused, 0, 1) for fused, layer in keys}


def pool(lay: LoraLayout, slices, dtype=torch.float16) -> dict[Buffer, torch.Tensor]:
    buffers = {}
    for (fused, layer), part in slices.items():
        a = (SLOTS, len(FUSED[fused]) * lay.rank, len(part.columns))
        buffers[Buffer("A", fused, layer)] = torch.zeros(a, dtype=dtype)
        buffers[Buffer("B", fused, layer)] = torch.zeros(SLOTS, len(part.rows), lay.rank, dtype=dtype)
    return buffers


def perturbation(size: int, antithetic: bool = False) -> Perturbation:
    sigma = PiecewiseConstant((size // 3, size), (0.5, 0.25))
    return Perturbation(Noise(2**50 + 3, antithetic), sigma, first_sigma=PiecewiseConstant((size,), (2.0,)))


def lora(buffers, fused, layer, slot, rank, x, part: TPSlice) -> np.ndarray:
    """What a fused module adds for one slot, by the engine's rules: A's rows by projection, B's outputs."""
    a = buffers[Buffer("A", fused, layer)][slot].double().numpy()
    b = buffers[Buffer("B", fused, layer)][slot].double().numpy()
    low = a @ x[part.columns]
    out = np.zeros(len(part.rows))
    starts = np.cumsum([0, *part.outputs])
    for place in range(len(part.outputs)):
        mine = (part.rows >= starts[place]) & (part.rows < starts[place + 1])
        out[mine] = b[mine] @ low[place * rank : (place + 1) * rank]
    return out


CASES = [
    (1, ALL, 1), (4, ALL, 1), (2, ("self_attn.q_proj",), 1), (3, ("self_attn.v_proj", "mlp.up_proj"), 1),
    (1, ALL, 2), (2, ALL, 4), (1, ("self_attn.k_proj", "mlp.down_proj"), 2),
]  # fmt: skip


@pytest.mark.parametrize(("rank", "names", "ranks"), CASES)
def test_a_pool_computes_what_peft_computes(rank, names, ranks):
    lay = layout(rank, names)
    theta = np.random.default_rng(0).normal(size=lay.size).astype(np.float32)
    s = perturbation(lay.size)
    sigma = torch.from_numpy(s.scale(2).dense(0, lay.size))
    candidates, slots = [0, 3, -1, 5], [4, 0, 6, 2]
    keys = {(fused_name(m)[0], m.layer) for m in lay.modules}
    summed: dict = {}
    for number in range(ranks):
        slices = {key: tp_slice(key[0], number, ranks) for key in keys}
        buffers = pool(lay, slices)
        writer = PoolWriter(extents(lay, slices), buffers, triton=False)
        writer.write_adapters(torch.from_numpy(theta), sigma, s.noise, 2, candidates, slots)
        rng = np.random.default_rng(1)
        for fused, layer in sorted(keys):
            x = rng.normal(size=WIDTH[fused])
            part = slices[fused, layer]
            for candidate, slot in zip(candidates, slots, strict=True):
                out = summed.setdefault((fused, layer, candidate), np.zeros(sum(part.outputs)))
                # row-parallel modules are summed over the ranks, the others put side by side
                out[part.rows] += lora(buffers, fused, layer, slot, rank, x, part)
        assert all(not buffer[[1, 3, 5]].any() for buffer in buffers.values())
    rng = np.random.default_rng(1)
    for fused, layer in sorted(keys):
        x = rng.normal(size=WIDTH[fused])
        for candidate in candidates:
            vector = theta if candidate < 0 else s.member(theta, 2, candidate)
            rounded = vector.astype(np.float16).astype(np.float64)
            wanted = []
            for place, name in enumerate(FUSED[fused]):
                found = [m for m in lay.modules if m.layer == layer and m.name.endswith(name)]
                wanted.append(np.zeros(FULL[fused][place]))
                if found:
                    a, b = lay.matrices(rounded)[found[0].name]
                    wanted[-1] = b @ (a @ x)
            assert np.allclose(summed[fused, layer, candidate], np.concatenate(wanted), atol=1e-9)


@pytest.mark.parametrize(("rank", "names"), [(1, ALL), (3, ALL[:3])])
def test_a_single_rank_holds_every_entry_once(rank, names):
    lay = layout(rank, names)
    found = extents(lay, unsharded(lay))
    assert sorted(e for r in found for e in range(r.source, r.source + r.length)) == list(range(lay.size))
    places = [(r.buffer, r.offset + e) for r in found for e in range(r.length)]
    assert len(set(places)) == len(places)


def test_digests_depend_on_members_and_positions():
    lay = layout(2)
    s, theta = perturbation(lay.size), torch.zeros(lay.size)
    sigma = torch.from_numpy(s.scale(1).dense(0, lay.size))
    buffers = pool(lay, unsharded(lay))
    writer = PoolWriter(extents(lay, unsharded(lay)), buffers, triton=False)
    writer.write_adapters(theta, sigma, s.noise, 1, [0, 1, 2, -1], [0, 1, 2, 3])
    digests = writer.digests([0, 1, 2, 3])
    assert len(set(digests)) == 4
    writer.write_adapters(theta, sigma, s.noise, 1, [1, 0, -1, 2], [0, 1, 2, 3])
    assert writer.digests([1, 0, 3, 2]) == digests  # the same members in other slots
    buffers[Buffer("B", "o_proj", 1)].flatten()[0] += 1
    assert writer.digests([1, 0, 3, 2])[1] != digests[1]
    a = buffers[Buffer("A", "o_proj", 0)]
    a[1] = a[1].flip(-1)
    assert writer.digests([1])[0] != digests[0]


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_members_are_rounded_once_to_the_pools_dtype(antithetic, dtype):
    lay = layout(1)
    s, theta = perturbation(lay.size, antithetic), np.full(lay.size, 0.75, np.float32)
    buffers = pool(lay, unsharded(lay), dtype)
    writer = PoolWriter(extents(lay, unsharded(lay)), buffers, triton=False)
    sigma = torch.from_numpy(s.scale(4).dense(0, lay.size))
    writer.write_adapters(torch.from_numpy(theta), sigma, s.noise, 4, list(range(6)), list(range(6)))
    for index in range(6):
        wanted = torch.from_numpy(s.member(theta, 4, index)).to(dtype)
        found = pieces(lay, buffers, index)
        assert (found == wanted).float().mean() > 0.999
        assert torch.allclose(found.float(), wanted.float(), rtol=2**-7)


def pieces(lay: LoraLayout, buffers, slot: int) -> torch.Tensor:
    """The flat vector of the adapter in a slot."""
    found = sorted(extents(lay, unsharded(lay)), key=lambda r: r.source)
    return torch.cat([buffers[r.buffer].flatten(1)[slot, r.offset : r.offset + r.length] for r in found])


def writers(lay: LoraLayout, triton: bool, dtype=torch.float16):
    if triton:
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("Triton compiles here: tests/gpu checks the kernels")
    buffers = pool(lay, unsharded(lay), dtype)
    return PoolWriter(extents(lay, unsharded(lay)), buffers, triton=triton), buffers


@pytest.mark.parametrize("triton", [False, True])
@pytest.mark.parametrize("antithetic", [False, True])
def test_factors_on_sigma_are_the_perturbations(antithetic, triton):
    lay = layout(1)
    s, theta = perturbation(lay.size, antithetic), np.full(lay.size, 0.75, np.float32)
    writer, buffers = writers(lay, triton)
    sigma = torch.from_numpy(s.scale(4).dense(0, lay.size))
    members, factors = [0, 1, 5, -1, 2, 3], [1.0, 0.5, 3.0, 2.0, 0.0, -0.3]
    writer.write_adapters(torch.from_numpy(theta), sigma, s.noise, 4, members, list(range(6)), factors)
    for slot, (member, factor) in enumerate(zip(members, factors, strict=True)):
        right = torch.from_numpy(theta if member < 0 else s.member(theta, 4, member, factor))
        # the interpreter truncates where a GPU rounds
        assert torch.allclose(pieces(lay, buffers, slot).float(), right, rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize("triton", [False, True])
def test_where_sigma_is_0_every_member_is_theta_to_the_bit(triton):
    """A in form b."""
    lay = layout(2)
    values = tuple(0.0 if part.matrix == "A" else 0.5 for part in lay.tensors)
    sigma = PiecewiseConstant(tuple(part.stop for part in lay.tensors), values)
    s, theta = Perturbation(Noise(7, True), sigma), np.random.default_rng(1).normal(size=lay.size)
    theta = theta.astype(np.float16).astype(np.float32)
    writer, buffers = writers(lay, triton)
    dense = torch.from_numpy(sigma.dense(0, lay.size))
    writer.write_adapters(torch.from_numpy(theta), dense, s.noise, 4, [0, 1, 5, -1], list(range(4)))
    fixed = dense.numpy() == 0
    for slot, member in enumerate([0, 1, 5]):
        found = pieces(lay, buffers, slot).float().numpy()
        assert np.array_equal(found[fixed], theta[fixed])
        wanted = s.member(theta, 4, member)
        assert np.array_equal(wanted[fixed], theta[fixed])
        assert np.allclose(found, wanted, rtol=2**-10, atol=1e-5)
    assert np.array_equal(pieces(lay, buffers, 3).float().numpy(), theta)


@pytest.mark.parametrize("triton", [False, True])
def test_a_factor_of_one_leaves_every_bit(triton):
    lay, members = layout(2), [0, 3, -1, 5]
    s, theta = perturbation(lay.size, True), torch.randn(lay.size)
    sigma = torch.from_numpy(s.scale(2).dense(0, lay.size))
    (plain, without), (scaled, ones) = writers(lay, triton), writers(lay, triton)
    plain.write_adapters(theta, sigma, s.noise, 2, members, [4, 0, 6, 2])
    scaled.write_adapters(theta, sigma, s.noise, 2, members, [4, 0, 6, 2], [1.0] * 4)
    assert all(torch.equal(ones[key], buffer) for key, buffer in without.items())
    if not triton or parsed(version("triton")) >= (3, 9):  # the older interpreter's sums do not wrap around
        assert plain.digests([4, 0, 6, 2]) == scaled.digests([4, 0, 6, 2])


@pytest.mark.parametrize("triton", [False, True])
def test_sums_over_members_are_the_perturbations(triton):
    lay = layout(1)
    s, advantages = perturbation(lay.size, True), np.random.default_rng(2).normal(size=6)
    writer, _ = writers(lay, triton)
    found = writer.weighted_sum(s.noise, 4, torch.from_numpy(advantages.astype(np.float32)), 3, 400)
    assert np.abs(found.numpy() - s.noise_sum(4, advantages, 3, 400)).max() < 1e-5


def test_other_modules_are_refused_by_name():
    with pytest.raises(UserError, match="q_proj.*not 'qkv_proj'"):
        fused_name(AdaptedModule("model.layers.0.self_attn.qkv_proj", 0, 4, 4))
