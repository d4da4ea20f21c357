"""The table of `es-ray evaluate`: means with their intervals, then every completion."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from es_ray.judge.evaluation import Evaluation
from es_ray.judge.statistics import LENGTH, NORMALIZED, PASS, TOKENS, TRUNCATED
from es_ray.judge.table import SHARES, comparison_table, formatted

TITLES = {
    NORMALIZED: "normalised reward",
    LENGTH: "characters",
    TOKENS: "tokens",
    TRUNCATED: "cut at the limit",
    "kl": "KL to base",
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
    return comparison_table(evaluation.answers, _title(evaluation.settings), rows)


def footnote(settings: Mapping[str, Any], statistics: Mapping[str, Any]) -> str:
    """What the table's numbers are."""
    spread = ", ± the spread over a prompt's samples" if settings["samples"] > 1 else ""
    kl = f"; KL over {settings['kl_prompts']} prompts" if "kl" in statistics["base"] else ""
    return (
        f"means over {settings['prompts']} prompts{spread} [{settings['level']:.0%} bootstrap interval over "
        f"prompts]; less base: the difference to the base model, prompt by prompt{kl}"
    )


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
