"""The relative drift of adapters, against the products in full."""

import numpy as np
import pytest

from es_ray.lora.drift import relative_drift
from es_ray.lora.layout import AdaptedModule, LoraLayout


@pytest.mark.parametrize("rank", [1, 8, 17])
def test_drift_is_the_size_of_all_products_beside_that_of_all_weights(rank):
    rng = np.random.default_rng(rank)
    modules = (AdaptedModule("layers.0.q", 0, 12, 20), AdaptedModule("layers.1.q", 1, 30, 9))
    layout = LoraLayout(rank, 2.0, modules)
    theta = rng.normal(size=layout.size).astype(np.float32)
    weights = [rng.normal(size=(m.out_features, m.in_features)) for m in modules]
    deltas = [2.0 / rank * b.astype(float) @ a.astype(float) for a, b in layout.matrices(theta).values()]
    wanted = np.linalg.norm(np.concatenate([d.ravel() for d in deltas]))
    wanted /= np.linalg.norm(np.concatenate([w.ravel() for w in weights]))
    norms = [float(np.linalg.norm(w)) for w in weights]
    assert relative_drift(layout, theta, norms) == pytest.approx(wanted, rel=1e-5)
    assert relative_drift(layout, np.zeros_like(theta), norms) == 0.0
    with pytest.raises(ValueError, match="1 norms for 2"):
        relative_drift(layout, theta, norms[:1])
