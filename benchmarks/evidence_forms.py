"""The section on the forms of adapter: full rank against rank 1, and whether longer runs go on."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from evidence_sections import Rows, bits, by_setting, calibrated, interval, named, table, whole
from evidence_store import Record, generations

CURVE: Final = (0, 20, 40, 60, 80, 90, 120, 150, 180, 200, 220, 240, 260, 280, 295)
"""Generations of which the centres' test problems are shown."""
PART: Final = 50
"""Generations of a longer run that are taken together."""
LAST: Final = 100
"""Generations at a longer run's end of which the training prompts are compared."""
LONG: Final = "merged, long"
"""The run that the other longer ones are compared with."""


def forms(ends: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """What runs end with, how they get there, and longer runs beside each other."""
    lines = lines_of(records)
    return [
        "## Full rank against adapters, held-out arithmetic",
        "",
        *calibrated(ends, records),
        "Shares of right answers: mean and range over runs.",
        "",
        *last_ones(whole(ends), lines),
        "",
        "Centres on the test problems by generation, means over runs:",
        "",
        *curves(lines),
        *longer(whole(ends), lines),
    ]


def lines_of(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The generations of each run, by the run's name."""
    names = dict.fromkeys(r["run"] for r in records if r["kind"] == "generation")
    return {name: list(generations(records, name)) for name in names if name.startswith("forms/")}


def last_ones(ends: Sequence[Record], lines: Mapping[str, Sequence[Record]]) -> list[str]:
    """A row for each setting: selected and last centres."""
    rows: Rows = []
    for setting, group in by_setting(ends).items():
        chosen, last = ([end[who]["correct"] for end in group] for who in ("selected", "centre"))
        ended = [lines[end["run"]][-1] for end in group]
        drifts = [line["drift"] for line in ended]
        rows.append((
            setting,
            str(len(group)),
            str(ended[0]["generation"] + 1),
            spread(chosen),
            spread(last),
            interval([bits(end, "selected", "base") for end in group]),
            f"{statistics.mean(drifts):.4f} ({min(drifts):.4f}–{max(drifts):.4f})",
        ))  # fmt: skip
    head = ("form", "runs", "generations", "selected", "last", "above the base model", "drift at the end")
    return table(head, rows)


def curves(lines: Mapping[str, Sequence[Record]]) -> list[str]:
    """A row for each setting: test problems by generation, also of runs that have not ended."""
    found: dict[str, list[dict[int, float]]] = {}
    for run, of_run in lines.items():
        tested = {line["generation"]: line["test_correct"] for line in of_run if "test_correct" in line}
        found.setdefault(named({"run": run})[0], []).append(tested)
    rows: Rows = []
    for setting, runs in found.items():
        known = [[run[number] for run in runs if number in run] for number in CURVE]
        rows.append((setting, *(f"{statistics.mean(some):.3f}" if some else "" for some in known)))
    return table(("form", *map(str, CURVE)), rows)


def longer(ends: Sequence[Record], lines: Mapping[str, Sequence[Record]]) -> list[str]:
    """Longer runs, each of one seed: means over parts of them, drift, and what LONG has above the others."""
    group = [end for end in ends if ", long" in end["run"]]
    usual = next((end for end in group if named(end)[0] == LONG), None)
    if usual is None:
        return []
    count = max(len(lines[end["run"]]) for end in group)
    parts = [range(low, min(low + PART, count)) for low in range(0, count, PART)]
    return [
        "",
        f"Centres of the longer runs, means over {PART} generations: on the test problems (asked every few",
        "generations) / on the training prompts of their generation, the same in all runs of one seed:",
        "",
        *table(
            ("form", *(f"{part[0]}–{part[-1]}" for part in parts)),
            [(named(end)[0], *(part_of(lines[end["run"]], part) for part in parts)) for end in group],
        ),
        "",
        *where_they_are(group, lines, parts),
        "",
        *above_the_others(usual, group, lines),
    ]


def part_of(lines: Sequence[Record], part: range) -> str:
    """Means over some generations: the centres on the test problems / on training prompts."""
    some = [line for line in lines if line["generation"] in part]
    tested = [line["test_correct"] for line in some if "test_correct" in line]
    return f"{statistics.mean(tested):.3f} / {statistics.mean(line['centre_correct'] for line in some):.3f}"


def where_they_are(
    group: Sequence[Record], lines: Mapping[str, Sequence[Record]], parts: Sequence[range]
) -> list[str]:
    """Drift and the guard's verdicts of each longer run."""
    rows: Rows = []
    shown = parts[1::2]
    for end in group:
        of_run = lines[end["run"]]
        cut = statistics.mean(line["truncated"] for line in of_run if line["generation"] in parts[-1])
        verdicts = sum(1 for line in of_run if line.get("verdicts"))
        drifts = [
            f"{line['drift']:.4f}" for part in shown for line in of_run if line["generation"] == part[-1]
        ]
        rows.append((named(end)[0], *drifts, str(verdicts), f"{cut:.2f}", str(end["chosen"]["generation"])))
    head = (
        "form", *(f"drift at {part[-1]}" for part in shown), "generations with a verdict",
        f"members' answers cut, {parts[-1][0]}–{parts[-1][-1]}", "selected at",
    )  # fmt: skip
    return table(head, rows)


def above_the_others(
    usual: Record, group: Sequence[Record], lines: Mapping[str, Sequence[Record]]
) -> list[str]:
    """How many more right answers LONG has, on the same problems and prompts."""
    rows: Rows = []
    for end in group:
        if end is usual:
            continue
        pairs = zip(lines[usual["run"]][-LAST:], lines[end["run"]][-LAST:], strict=True)
        trained = [one["centre_correct"] - other["centre_correct"] for one, other in pairs]
        tested = [[int(a) - int(b) for a, b in zip(usual[who]["right"], end[who]["right"], strict=True)]
                  for who in ("selected", "centre")]  # fmt: skip
        rows.append((named(end)[0], *(interval([values]) for values in (*tested, trained))))
    head = (f"{LONG}, less", "selected, test", "last, test", f"training prompts, last {LAST} generations")
    return [
        "Differences of right answers on the same problems, with intervals over problems (last column: over",
        "generations). It is one run of each: how far another seed would be from it is not in them.",
        "",
        *table(head, rows),
    ]


def spread(values: Sequence[float]) -> str:
    """Mean and range."""
    return f"{statistics.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"
