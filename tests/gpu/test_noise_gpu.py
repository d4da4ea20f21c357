"""The noise on a GPU, in torch and in Triton, against the NumPy form."""

import numpy as np
import pytest
import torch

from es_ray.engines import torch_noise
from es_ray.engines.sglang.lora.pool_layout import extents
from es_ray.engines.sglang.lora.pool_writer import PoolWriter
from es_ray.evolution.noise import Noise, normals
from tests.engines.sglang.test_pool_layout import ALL, layout, perturbation, pool, unsharded
from tests.engines.test_torch_noise import SLICES, WHERE
from tests.evolution.test_noise import KNOWN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
MEMBERS = [0, 1, 29, 2**31 + 7, 2**32 - 1]


def triton_normals(seed: int, generation: int, numbers: list[int], start: int, stop: int) -> np.ndarray:
    """As factors of form `merged`, whose two halves are added again."""
    from es_ray.engines.sglang.lora import merged_kernels, noise_kernels

    words = noise_kernels.words_of(seed, generation, "cuda")
    drawn = torch.tensor(numbers, device="cuda")
    found = merged_kernels.factors(
        words, drawn, torch.ones(len(numbers), device="cuda"), start, 1, stop - start, 0
    )
    return found.float().sum(0).cpu().numpy()


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    words = torch_noise.philox4x32(tuple(torch.tensor([word], device="cuda") for word in counter), key)
    assert [int(word) for word in words] == [int(word, 16) for word in answer.split()]


@pytest.mark.parametrize(("seed", "generation"), WHERE)
@pytest.mark.parametrize(("start", "stop"), [*SLICES, (5, 100_003)])
def test_both_forms_agree_with_numpy(seed, generation, start, stop):
    if start == stop:
        pytest.skip("nothing to draw")
    wanted = np.stack([normals(seed, generation, member, 0, start, stop) for member in MEMBERS])
    plain = torch_noise.normals(seed, generation, torch.tensor(MEMBERS, device="cuda"), start, stop)
    assert np.abs(plain.cpu().numpy() - wanted).max() < 1e-6
    assert np.abs(triton_normals(seed, generation, MEMBERS, start, stop) - wanted).max() < 1e-5


def test_ten_million_normals_agree(report):
    wanted = normals(3, 5, 7, 0, 0, 10_000_000)
    apart = np.abs(triton_normals(3, 5, [7], 0, 10_000_000)[0] - wanted).max()
    report(largest_difference=float(apart))
    assert apart < 1e-5


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize(("rank", "names"), [(1, ALL), (4, ALL), (3, ALL[:2])])
def test_the_kernel_writes_what_the_plain_form_writes(rank, names, antithetic, dtype, fresh):
    made = layout(rank, names)
    s = perturbation(made.size, antithetic)
    theta = torch.randn(made.size, generator=torch.Generator().manual_seed(0))
    sigma = torch.from_numpy(s.scale(3).dense(0, made.size))
    if fresh:  # half of the entries are plain noise
        sigma[: made.size // 2] = 0
    members, slots, factors = [0, 3, 1 if fresh else -1, 5], [4, 0, 6, 2], [1.0, 0.5, 2.0, 3.0]
    buffers, digests = {}, {}
    for device in ("cpu", "cuda"):
        buffers[device] = {k: b.to(device) for k, b in pool(made, unsharded(made), dtype).items()}
        writer = PoolWriter(extents(made, unsharded(made)), buffers[device], triton=device == "cuda")
        start = None if fresh else theta.to(device)
        writer.write_adapters(start, sigma.to(device), s.noise, 3, members, slots, factors)
        digests[device] = writer.digests(slots)
    same = total = 0
    for key, cpu in buffers["cpu"].items():
        gpu = buffers["cuda"][key].cpu()
        assert torch.allclose(gpu.float(), cpu.float(), rtol=2**-7, atol=1e-5)
        assert torch.equal(gpu[[1, 3, 5]], cpu[[1, 3, 5]])
        same, total = same + int((gpu == cpu).sum()), total + cpu.numel()
    assert same > 0.99 * total
    on_host = PoolWriter(
        extents(made, unsharded(made)), {k: b.cpu() for k, b in buffers["cuda"].items()}, triton=False
    )
    assert on_host.digests(slots) == digests["cuda"]


def test_a_factor_of_one_leaves_every_bit():
    made = layout(4)
    s, theta = perturbation(made.size, True), torch.randn(made.size, device="cuda")
    sigma = torch.from_numpy(s.scale(3).dense(0, made.size)).cuda()
    written = []
    for factors in ([], [1.0] * 4):
        buffers = {k: b.cuda() for k, b in pool(made, unsharded(made)).items()}
        writer = PoolWriter(extents(made, unsharded(made)), buffers, triton=True)
        writer.write_adapters(theta, sigma, s.noise, 3, [0, 3, -1, 5], [4, 0, 6, 2], factors)
        written.append(buffers)
    assert all(torch.equal(written[0][key], buffer) for key, buffer in written[1].items())


@pytest.mark.parametrize("antithetic", [False, True])
def test_sums_over_members_do_not_depend_on_the_slices(antithetic):
    from es_ray.engines.sglang.lora.noise_kernels import TILE

    made = layout(8)
    s = perturbation(made.size, antithetic)
    buffers = {k: b.cuda() for k, b in pool(made, unsharded(made)).items()}
    writer = PoolWriter(extents(made, unsharded(made)), buffers, triton=True)
    weights = torch.randn(6, generator=torch.Generator().manual_seed(1))
    whole_sum = writer.weighted_sum(s.noise, 4, weights.cuda(), 0, made.size).cpu()
    wanted = torch_noise.weighted_sum(s.noise, 4, weights, 0, made.size)
    assert (whole_sum - wanted).abs().max() < 1e-5
    by_numpy = s.noise_sum(4, weights.double().numpy(), 0, made.size)
    assert np.abs(whole_sum.numpy() - by_numpy).max() < 5e-5
    assert made.size > 2 * TILE
    for start, stop in [(0, 1), (3, 1030), (TILE, made.size), (1021, made.size), (made.size - 1, made.size)]:
        part = writer.weighted_sum(Noise(s.noise.seed, antithetic), 4, weights.cuda(), start, stop).cpu()
        assert part.numpy().tobytes() == whole_sum[start:stop].numpy().tobytes()
