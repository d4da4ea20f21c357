"""The results of a run side by side, for a terminal; and how metrics are shown everywhere."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from es_ray.config import Config
from es_ray.tasks.base import RESERVED

SHARES: Final = ("correct", "exact")
"""Metrics that are shares by convention, shown in percent."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""All but tab and the ends of lines."""
NOT_METRICS: Final = RESERVED


def other_base(
    config: Config, base: Mapping[str, Mapping[str, float]] | None, results: Mapping[str, Any]
) -> str:
    """A sentence if the base model's reward on the test prompts is not that of generation 0; else empty.

    base: the reward and metrics by split in generation 0, if known; results: as in test_results.json. Not
    compared are sampled answers, which differ anyway, and those of a generation that asked only some of the
    prompts.
    """
    if config.task.temperature > 0 or base is None or "test" not in base:
        return ""
    most = config.evaluation.examples
    if most is not None and most < len(results["base"]["examples"]):
        return ""
    before, now = base["test"]["reward"], results["base"]["reward"]
    if math.isclose(before, now, rel_tol=1e-9, abs_tol=1e-12):
        return ""
    return (
        f"the base model's reward on the test prompts was {formatted('reward', before)} in generation 0 and "
        f"is {formatted('reward', now)} in the final evaluation: in a batch of other rows numbers round "
        "otherwise, so that near ties between tokens can go the other way (rarely in float32), or the "
        "reward itself varies; the final figures are of answers that shared batches"
    )


def comparison_table(
    results: Mapping[str, Any],
    title: str,
    last: int,
    rows: Sequence[tuple[str, Mapping[str, str]]] | None = None,
) -> Table:
    """Summary, then every completion.

    results: as in test_results.json, and further members by any name; last: the generation after which its
    centre came about; rows: of the summary, each a title and texts by name, by default the reward and the
    metrics.
    """
    best, selected = results["best"], results.get("selected")
    # the selected centre has a column of its own only if it is not the last one; equal answers do not make
    # two centres one
    same = selected is not None and selected["generation"] == last
    names = {
        "base": "base",
        "centre": "centre (also the selected one)" if same else "centre",
        "best": f"best (generation {best['generation']}, member {best['index']})",
    }
    if selected is not None and not same:
        number = selected["generation"]
        names["selected"] = f"selected (generation {number})" if number >= 0 else "selected (the start)"
    for name in [name for name in results if name not in (*names, "selected")]:
        names[name] = f"generation {results[name]['generation']}, member {results[name]['index']}"
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for name in names.values():
        table.add_column(name, overflow="fold")
    if rows is None:
        keys = ("reward", *metric_names(results["base"]))
        rows = [(key, {name: formatted(key, results[name][key]) for name in names}) for key in keys]
    for key, texts in rows:
        table.add_row(Text(key, style="bold"), *(Text(texts[name]) for name in names))
    table.add_section()
    for number, example in enumerate(results["base"]["examples"]):
        completions = [_shown(results[name]["examples"][number]["completion"]) for name in names]
        table.add_row(_shown(example["prompt"]), *completions)
    return table


def answers_table(answers: Mapping[str, Any], title: str) -> Table:
    """Every completion with its score; answers: {reward, metrics by name, examples}."""
    names = ["reward", *metric_names(answers)]
    table = Table(title=title, title_justify="left")
    for column in ("prompt", "completion"):
        table.add_column(column, overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    for example in answers["examples"]:
        numbers = [formatted(name, example[name]) if name in example else "" for name in names]
        table.add_row(_shown(example["prompt"]), _shown(example["completion"]), *numbers)
    table.add_section()
    table.add_row(Text("mean", style="bold"), "", *(formatted(name, answers[name]) for name in names))
    return table


def shown(text: str) -> str:
    """A text with its control characters written out: a model may answer with a terminal's escape codes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def _shown(text: str) -> Text:
    return Text(shown(text))


def metric_names(summary: Mapping[str, Any]) -> list[str]:
    """The task's metrics in a summary of test_results.json."""
    return [key for key in summary if key not in NOT_METRICS]


def watched_metric(names: Iterable[str]) -> str | None:
    """The metric to watch beside the reward where there is room for one: `correct`, else the first."""
    metrics = [name for name in names if name not in NOT_METRICS]
    return "correct" if "correct" in metrics else next(iter(metrics), None)


def formatted(name: str, value: float) -> str:
    """A reward or a metric, for people: a share in percent, else four digits that count.

    >>> formatted("reward", -97.75), formatted("reward", 0.0003), formatted("reward", -12345.67)
    ('-97.75', '0.0003000', '-12346')
    """
    if name in SHARES:
        return f"{value:.0%}"
    if value == 0:
        return "0"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:#.4g}".rstrip(".")
