"""How a report looks in a browser: light and dark, narrow and wide.

`ES_RAY_REPORT_PICTURES=folder` keeps the pictures.
"""

import json
import os
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.judge.report.browser import CHROMIUM, DARK, LIGHT, contrast, measured, picture
from tests.judge.report.pages import change, report, write_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
]


@pytest.fixture
def page(copied):
    """A report with all that may be hard to show: verdicts, rollbacks, a wreck, long words, long answers."""
    write_metrics(
        copied, 30,
        verdicts=lambda g: ["correct: 50%, more than 0.15 below the base model's 100%"] if g > 20 else [],
        reward_worst=lambda g: -1e6 if g == 9 else -150.0, reward_mean=lambda g: -100.0 + 3 * g,
        reward_best=lambda g: min(-50.0 + 3 * g, 0.0), kl=lambda g: 0.01 * g, redispatched=lambda g: g % 2,
    )  # fmt: skip
    lines = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    lines[25]["rollback"] = 20
    (copied / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shutil.copytree(copied / "generations/0003", copied / "generations/0029")

    def edit(results: dict) -> None:
        results["centre"]["examples"][0]["completion"] = "w" * 5000
        results["centre"]["examples"][1]["completion"] = "word\n" * 100
        results["base"]["examples"][2]["prompt"] = "p" * 500

    change(copied / "test_results.json", edit)
    change(copied / "environment.json", lambda one: one["hardware"].update(cpu="c" * 200))
    return report(copied)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
@pytest.mark.parametrize("width", [360, 400, 800, 1280])
def test_it_fits_fetches_nothing_and_can_be_read(page, tmp_path, width, scheme):
    found = measured(tmp_path, page, width, scheme)
    assert found["width"] == width
    assert found["scroll"] <= width
    assert found["beyond"] == []
    assert found["fetched"] == []
    assert found["scripts"] == 0
    assert found["shown"] == ["narrow" if width < 641 else "wide"]
    assert found["font"] >= 10, "pixels of the smallest text of a chart"
    assert len(found["colours"]) > 4
    low = min((contrast(*pair), pair) for pair in found["colours"])
    assert low[0] >= 4.5, low


@pytest.mark.parametrize("width, height", [(400, 9000), (1280, 6000)])
def test_pictures_are_light_and_dark(page, tmp_path, width, height):
    light, dark = (picture(tmp_path, page, width, height, scheme) for scheme in (LIGHT, DARK))
    if "ES_RAY_REPORT_PICTURES" in os.environ:
        for file in (light, dark):
            shutil.copy(file, Path(os.environ["ES_RAY_REPORT_PICTURES"]))
    images = [matplotlib.image.imread(file)[:, :width, :3] for file in (light, dark)]
    assert np.median(images[0]) > 0.9
    assert np.median(images[1]) < 0.2
    for image in images:
        assert image.shape[:2] == (height, width)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100, "blank"
