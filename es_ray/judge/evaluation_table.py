"""The table of `es-ray evaluate`: means with their intervals, then every completion."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from es_ray.judge.evaluation import Evaluation
from es_ray.judge.intervals import FEW, caution
from es_ray.judge.statistics import (
    KL,
    KL_FORWARD,
    LENGTH,
    NORMALIZED,
    PASS,
    TOKENS,
    TRUNCATED,
    has_equal_values,
)
from es_ray.judge.table import SHARES, comparison_table, formatted

TITLES = {
    NORMALIZED: "normalised reward",
    LENGTH: "characters",
    TOKENS: "tokens",
    TRUNCATED: "cut at the limit",
    KL: "KL to base",
    KL_FORWARD: "KL of base to it",
}
DIFFERENCE = "  less base"


def evaluation_table(evaluation: Evaluation) -> Table:
    """Of each quantity the mean ± spread [interval], and the difference to the base model likewise.

    Where no difference says anything, as all are 0, only the reward's are shown.
    """
    found, rows = evaluation.statistics, []
    for quantity in dict.fromkeys(key for each in found.values() for key in each):
        own = {name: each.get(quantity, {}) for name, each in found.items()}
        rows.append((TITLES.get(quantity, quantity), _cells(quantity, own)))
        differences = {name: each.get("difference", {}) for name, each in own.items()}
        if quantity == "reward" or any(any(each.values()) for each in differences.values()):
            rows.append((DIFFERENCE, _cells(quantity, differences, sign="+")))
    settings = evaluation.settings
    return comparison_table(evaluation.answers, _title(settings), settings["generation"], rows)


def footnote(settings: Mapping[str, Any], statistics: Mapping[str, Any]) -> str:
    """What the table's numbers are, what to think of its intervals, and what it leaves out."""
    spread = ", ± the spread over a prompt's samples" if settings["samples"] > 1 else ""
    prompts, of_kl = settings["prompts"], settings["kl_prompts"]
    has_kl = not {KL, KL_FORWARD}.isdisjoint(statistics["base"])
    kl = f"; KL over {of_kl} prompts" if has_kl else ""
    interval = f" [{settings['level']:.0%} bootstrap interval over prompts]" if prompts > 1 else ""
    lines = [
        f"means over {prompts} prompt{'s' if prompts > 1 else ''}{spread}{interval}; "
        f"less base: the difference to the base model, prompt by prompt{kl}",
        caution(prompts, has_equal_values(statistics)),
    ]
    if has_kl and 1 < of_kl < FEW <= prompts:
        lines.append(f"the KL's interval, over {of_kl} prompts, is narrower than {settings['level']:.0%}")
    selected = settings["selected"]
    if selected is not None and selected > settings["generation"]:
        lines.append(f"the selected centre is left out: it came later, after generation {selected}")
    return "\n".join(filter(None, lines))


def _title(settings: Mapping[str, Any]) -> str:
    asked = f"{settings['split']} split" if "split" in settings else str(settings["data"])
    title = f"{asked}, after generation {settings['generation']}"
    if settings["temperature"] > 0:
        title += f", {settings['samples']} samples at temperature {settings['temperature']:g}"
    if settings["engine"] != settings["engine_of_run"]:
        title += f", answered by {settings['engine']}"
    return title


def _cells(quantity: str, found: Mapping[str, Mapping[str, Any]], sign: str = "") -> dict[str, str]:
    """Texts by name; found: by name {mean, low, high, spread}, of which some may be missing."""
    is_share = quantity in SHARES or quantity == TRUNCATED or quantity.startswith(PASS)
    kind = SHARES[0] if is_share else quantity

    def shown(value: float, sign: str = sign) -> str:
        text = formatted(kind, value).replace("-0%", "0%")
        return f"{sign}{text}" if value > 0 and text != "0%" else text

    def cell(each: Mapping[str, Any]) -> str:
        text = shown(each["mean"]) if each else ""
        if each.get("spread"):
            text += f" ± {shown(each['spread'], '')}"
        if "low" in each:
            text += f" [{shown(each['low'])}, {shown(each['high'])}]"
        return text

    return {name: cell(each) for name, each in found.items()}
