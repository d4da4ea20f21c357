"""The kernel that adds updates, and the noise that it adds, in Triton's interpreter, against torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles here: tests/gpu checks the kernels", allow_module_level=True)
from es_ray.engines.merged_weights import AdaptedWeight, MergedWeights, TorchUpdates  # noqa: E402
from es_ray.engines.sglang.lora import merged_kernels, merged_updates, noise_kernels  # noqa: E402
from es_ray.engines.sglang.lora.merged_updates import TritonUpdates  # noqa: E402
from es_ray.evolution.merged import updates  # noqa: E402
from es_ray.evolution.noise import normals  # noqa: E402
from tests.engines.sglang.fake_sglang import WEIGHTS  # noqa: E402
from tests.engines.sglang.test_merged_scheduler import ENDS, MERGED, fresh, history  # noqa: E402


def halves(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What `factors` gives of A, [D, rank, in], and of w B, [D, out, rank]."""
    both = torch.cat([a, b.transpose(1, 2)], dim=2).flatten(0, 1).float()
    high = both.half()
    return torch.stack([high, (both - high.float()).half()])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("part", ["all", "rows", "columns"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_adds_and_serves_what_float64_does(rank, part, dtype):
    generator = torch.Generator().manual_seed(rank)
    whole_out, width, directions = 70, 150, 40

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows = torch.tensor([3, 4, 5, 40, 41, 69]) if part == "rows" else None
    columns = torch.arange(75, 150) if part == "columns" else None
    noise = normal(directions, rank * (width + whole_out))
    weights = torch.rand(directions, generator=generator) * 2 - 1
    a = noise[:, : rank * width].view(-1, rank, width).double()
    b = noise[:, rank * width :].view(-1, whole_out, rank).double()
    factors = halves(a, weights.double()[:, None, None] * b)
    a, b = (a if columns is None else a[:, :, columns]), (b if rows is None else b[:, rows])
    change, base = normal(b.shape[1], a.shape[2]), normal(b.shape[1], a.shape[2]).to(dtype)
    exact = 0.95 * change.double() + 0.3 * torch.einsum("d,dor,dri->oi", weights.double(), b, a)
    scale, kept = torch.tensor([0.3]), torch.tensor([0.95])
    alone, served = change.clone(), torch.zeros_like(base)
    merged_kernels.add(alone, base, None, factors, width, scale, kept, rows, columns)
    merged_kernels.add(change, base, served, factors, width, scale, kept, rows, columns)
    assert torch.equal(alone, change)
    assert (change.double() - exact).abs().max() < 1e-5
    right = (base.float() + change).to(dtype)
    # the interpreter cuts off where a GPU rounds
    assert ((served.float() - right.float()).abs() <= torch.finfo(dtype).eps * right.float().abs()).all()


@pytest.mark.parametrize("start", [0, 8, 13])
@pytest.mark.parametrize(("rank", "width", "outputs"), [(1, 1000, 700), (3, 70, 41)])
def test_factors_are_the_noise_of_numpy(start, rank, width, outputs):
    seed, generation, numbers = 2**33 + 1, 7, [0, 5, 2**32 - 1]
    weights = torch.tensor([0.7, -1.0, 2.0**-9])
    words = noise_kernels.words_of(seed, generation, "cpu")
    found = merged_kernels.factors(words, torch.tensor(numbers), weights, start, rank, width, outputs)
    stop = start + rank * (width + outputs)
    for number, weight, mine in zip(
        numbers, weights.tolist(), found.unflatten(1, (-1, rank)).unbind(1), strict=True
    ):
        drawn = normals(seed, generation, number, 0, start, stop).astype(np.float64)
        a = drawn[: rank * width].reshape(rank, width)
        b = weight * drawn[rank * width :].reshape(outputs, rank).T
        apart = np.abs(mine.double().sum(0).numpy() - np.concatenate([a, b], axis=1))
        assert apart.max() < 4e-6  # the noise in Triton is as near as that


@pytest.mark.parametrize("antithetic", [True, False])
def test_updates_are_those_of_the_noise_in_numpy(antithetic):
    """One layer: the interpreter takes its time."""
    made = replace(MERGED, modules=MERGED.modules[:3])
    found = []
    for way in (TorchUpdates(), TritonUpdates(torch.device("cpu"))):
        served = [WEIGHTS[module.name].clone() for module in made.modules]
        parts = iter(made.tensors)
        adapted = [AdaptedWeight(weight, a, b) for weight, a, b in zip(served, parts, parts, strict=True)]
        weights = MergedWeights(adapted, made.scaling, way)
        weights.begin()
        weights.add(list(updates(history(3))), fresh(antithetic), serve=True)
        found.append((served, weights.squares()[0]))
    for one, other in zip(*(served for served, _ in found), strict=True):
        assert (one - other).abs().max() < 1e-5
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@pytest.mark.parametrize("part", ["rows", "columns"])
def test_a_rank_updates_its_part_of_a_matrix_as_the_whole(part):
    """In parts of two directions, so that a later one adds to what an earlier one left."""
    weight, (a, b) = WEIGHTS[MERGED.modules[0].name], MERGED.tensors[:2]
    size = weight.shape[0 if part == "rows" else 1]
    mine = torch.cat([torch.arange(3), torch.arange(size // 2, size)])
    whole = MergedWeights([AdaptedWeight(weight.clone(), a, b)], MERGED.scaling)
    cut = weight.index_select(0 if part == "rows" else 1, mine).clone()
    adapted = AdaptedWeight(cut, a, b, **{part: mine})
    ours = MergedWeights([adapted], MERGED.scaling, TritonUpdates(torch.device("cpu")))
    for weights in (whole, ours):
        weights.begin()
        for update in updates(history(3)):
            weights.add([update], fresh(), serve=True)
    right = whole.change(0).index_select(0 if part == "rows" else 1, mine)
    assert (ours.change(0) - right).abs().max() < 1e-5 * whole.change(0).abs().max()
    assert torch.equal(cut, weight.index_select(0 if part == "rows" else 1, mine) + ours.change(0))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("at_once", [2, merged_updates.AT_ONCE])
def test_coefficients_of_any_size_are_added(monkeypatch, size, at_once):
    monkeypatch.setattr(merged_updates, "AT_ONCE", at_once)
    weight, (a, b) = WEIGHTS[MERGED.modules[0].name], MERGED.tensors[:2]
    update = next(updates(history(1)))
    decayed = update._replace(coefficients=update.coefficients * size, kept=0.5)
    found = []
    for way in (TorchUpdates(), TritonUpdates(torch.device("cpu"))):
        weights = MergedWeights([AdaptedWeight(weight.clone(), a, b)], MERGED.scaling, way)
        weights.begin()
        if size < 1:
            weights.add([update], fresh(), serve=False)
        weights.add([decayed], fresh(), serve=False)
        found.append(weights.change(0).double())
    assert found[0].abs().max() > 0
    assert (found[0] - found[1]).abs().max() <= 1e-5 * found[0].abs().max()


def test_another_sigma_within_a_matrix_is_refused():
    perturbation = fresh()
    torn = replace(perturbation.sigma, ends=(ENDS[0] + 3, *ENDS[1:]))
    weight = AdaptedWeight(WEIGHTS[MERGED.modules[0].name].clone(), *MERGED.tensors[:2])
    weights = MergedWeights([weight], 1.0, TritonUpdates(torch.device("cpu")))
    weights.begin()
    with pytest.raises(ValueError, match="one sigma for B"):
        weights.add([next(updates(history(1)))], replace(perturbation, sigma=torn), serve=False)
