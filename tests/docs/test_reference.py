"""docs/reference/ says what the code says."""

import re
import sys
from types import ModuleType

import pytest

from es_ray.config import preset_names
from es_ray.tasks import TASKS
from tests.docs.pages import ROOT
from tests.short_runs import json_lines

OPTIONAL = {"kl_forward", "rollback", "validation_reward", "validation_correct"}
"""Keys that the short run's lines may lack: no form merged, no rollback, no validation data."""


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    sys.path.insert(0, str(ROOT / "docs/scripts"))
    try:
        import metrics_page
        import reference
    finally:
        del sys.path[0]
    return {"metrics_page": metrics_page, "reference": reference}


def test_the_pages_are_what_the_code_says(scripts):
    assert scripts["reference"].stale() == [], "run `make reference`"


def test_a_page_that_differs_or_is_missing_is_noticed(scripts, tmp_path):
    scripts["reference"].write(tmp_path)
    assert scripts["reference"].stale(tmp_path) == []
    page = tmp_path / "configuration.md"
    page.write_text(page.read_text().replace("`evolution.population`", "`evolution.members`"))
    (tmp_path / "python.md").unlink()
    assert scripts["reference"].stale(tmp_path) == ["configuration.md", "python.md"]


def test_the_metrics_of_a_run_are_the_ones_described(scripts, finished):
    lines = json_lines(finished.path / "metrics.jsonl")
    keys = {key.replace("_exact", "_correct") for line in lines for key in line}
    assert keys == set(scripts["metrics_page"].KEYS) - OPTIONAL


def test_every_key_of_the_configuration_has_a_row(finished):
    from es_ray.config import Config
    from es_ray.config.tree import flat

    page = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"(?m)^\| `([\w.]+)` \|", page))
    assert rows == set(flat(Config().model_dump()))


def test_every_preset_and_every_task_is_described():
    presets = (ROOT / "docs/reference/presets.md").read_text(encoding="utf-8")
    tasks = (ROOT / "docs/how-to/own-reward.md").read_text(encoding="utf-8")
    assert [name for name in preset_names() if f"| `{name}`" not in presets] == []
    assert [name for name in TASKS if f"`{name}`" not in tasks] == []
