"""The table of `es-ray compare`, for a terminal and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from es_ray.judge.comparison import WHO, Comparison
from es_ray.judge.intervals import LEVEL, caution
from es_ray.judge.run_groups import Group
from es_ray.judge.table import formatted

NOTE: Final = (
    f"Test results: the mean over prompts and seeds [{LEVEL:.0%} bootstrap interval over prompts] (lowest to "
    "highest seed); less base: the difference to the base model, prompt by prompt. Tokens and seconds: means "
    "of a run's finished generations. A run without test results has not ended."
)
FIGURE_NOTE: Final = (
    "Lines: means over seeds; bands: from the lowest to the highest seed; dashed: the runs that went on. "
    "A point of the centre is the centre that a generation starts from, at what was spent before it."
)


def rows(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """The table's rows: a title, and a text for each group."""
    groups, finals = comparison.groups, comparison.finals
    found = [
        ("seeds", [", ".join(str(run.seed) for run in group.runs) for group in groups]),
        ("generations", [_generations(group) for group in groups]),
    ]
    quantities = dict.fromkeys(key for final in finals for each in final.values() for key in each)
    for quantity in quantities:
        for name in WHO:
            entries = [final.get(name, {}).get(quantity) for final in finals]
            if not any(entries):
                continue
            found.append((f"{quantity}, {name}", [_entry(quantity, entry) for entry in entries]))
            differences = [(entry or {}).get("difference") for entry in entries]
            if any(differences):
                found.append(("  less base", [_entry(quantity, each, "+") for each in differences]))
    for unit in ("tokens", "seconds"):
        means = [sum(run.spent(unit) for run in group.runs) / len(group.runs) for group in groups]
        found.append((unit, [f"{mean:,.0f}" if unit == "tokens" else f"{mean:,.1f}" for mean in means]))
    return found


def comparison_tables(comparison: Comparison) -> Iterable[Table]:
    """For a terminal: the groups, and the keys that differ."""
    labels = [group.label for group in comparison.groups]
    yield _table("", labels, rows(comparison))
    if comparison.differing:
        keys = [(key, [str(value) for value in each]) for key, each in comparison.differing.items()]
        yield _table("keys that differ", labels, keys)


def notes(comparison: Comparison) -> str:
    """What the table's numbers are, and what to think of its intervals."""
    entries = [
        entry for final in comparison.finals for of_name in final.values() for entry in of_name.values()
    ]
    if not entries:
        return NOTE
    both = [*entries, *(entry["difference"] for entry in entries if "difference" in entry)]
    equal = any("low" in entry and entry["low"] == entry["high"] for entry in both)
    warning = caution(min(entry["prompts"] for entry in entries), equal)
    return f"{NOTE} {warning[0].upper()}{warning[1:]}." if warning else NOTE


def as_markdown(comparison: Comparison) -> str:
    """Both tables with the figure, and the runs of each group."""
    labels = [group.label for group in comparison.groups]
    parts = ["# Comparison", "![Curves](compare.png)", FIGURE_NOTE]
    parts += [_markdown("", labels, rows(comparison)), notes(comparison)]
    if comparison.differing:
        keys = [(key, [str(value) for value in each]) for key, each in comparison.differing.items()]
        parts += ["## Keys that differ", _markdown("key", labels, keys)]
    listed = [
        f"- {group.label}: {', '.join(f'`{run.path}`' for run in group.runs)}" for group in comparison.groups
    ]
    return "\n\n".join([*parts, "## Runs", "\n".join(listed)]) + "\n"


def _generations(group: Group) -> str:
    done = [len(run.lines) for run in group.runs]
    planned = group.runs[0].config.evolution.generations
    many = str(min(done)) if min(done) == max(done) else f"{min(done)}-{max(done)}"
    ended = sum(run.results is not None for run in group.runs)
    if ended == len(group.runs):
        return many
    return f"{many} of {planned}, {ended} of {len(group.runs)} ended"


def _entry(quantity: str, entry: Mapping[str, Any] | None, sign: str = "") -> str:
    if not entry:
        return "-"

    def shown(value: float) -> str:
        text = formatted(quantity, value).replace("-0%", "0%")
        return f"{sign}{text}" if value > 0 and text != "0%" else text

    text = shown(entry["mean"])
    if "low" in entry:  # of one prompt there is no interval
        text += f" [{shown(entry['low'])}, {shown(entry['high'])}]"
    low, high = entry.get("seeds", (0, 0))
    return f"{text} ({shown(low)} to {shown(high)})" if low != high else text


def _table(corner: str, labels: Sequence[str], found: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table()
    for column in (corner, *labels):
        table.add_column(Text(column), overflow="fold")
    for title, texts in found:
        table.add_row(Text(title, style="bold"), *map(Text, texts))
    return table


def _markdown(corner: str, labels: Sequence[str], found: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [
        [corner, *labels],
        ["---"] * (1 + len(labels)),
        *([title.strip(), *texts] for title, texts in found),
    ]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "\\|")
