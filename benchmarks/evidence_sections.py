"""The sections of the evidence's report: a table for each plan."""

import statistics
from collections.abc import Iterable, Sequence

from evidence_statistics import cell, cell_place, paired, wilson
from evidence_store import Record, generations

Rows = list[Sequence[str]]


def by_setting(ends: Iterable[Record]) -> dict[str, list[Record]]:
    """The runs of each setting."""
    found: dict[str, list[Record]] = {}
    for end in ends:
        found.setdefault(named(end)[0], []).append(end)
    return found


def named(end: Record) -> tuple[str, str]:
    """A run's setting, which may have a slash in it, and its seed."""
    setting, _, seed = end["run"].partition("/")[2].rpartition("/")
    return setting, seed


def held_out(ends: Sequence[Record], records: Sequence[Record], title: str) -> list[str]:
    """A row for each run: share right of base model, selected and last centre, with what the rows say."""
    rows: Rows = []
    for end in ends:
        setting, seed = named(end)
        if "error" in end:
            rows.append((setting, seed, "failed", end["error"][:60], "", "", ""))
            continue
        shares = [f"{share_of(end, who)}" for who in ("base", "selected", "centre")]
        rewards = f"{end['base']['reward']:.3g} → {end['selected']['reward']:.3g}"
        rows.append((setting, seed, *shares, rewards, str(end["chosen"]["generation"])))
    head = ("setting", "seed", "base", "selected", "last", "reward, base → selected", "selected at")
    found = [f"## {title}", "", *calibrated(ends, records), *table(head, rows), ""]
    for setting, group in by_setting(whole(ends)).items():
        found.append(f"- {setting}: {summary_of(group)}")
    return found


def share_of(end: Record, who: str) -> str:
    """Right answers as a share, with its interval."""
    right = end[who]["right"]
    low, high = wilson(right.count("1"), len(right))
    return f"{right.count('1') / len(right):.3f} ({low:.2f}–{high:.2f})"


def whole(ends: Iterable[Record]) -> list[Record]:
    """Those that did not fail."""
    return [end for end in ends if "error" not in end]


def summary_of(group: Sequence[Record]) -> str:
    """Selected centres against the base model: median and spread over runs, differences with intervals."""
    shares = [end["selected"]["correct"] for end in group]
    right = [bits(end, "selected", "base") for end in group]
    reward = [gained(end, "selected", "base") for end in group]
    return (
        f"{len(group)} runs, selected right in {statistics.median(shares):.3f} (median; {min(shares):.3f} to "
        f"{max(shares):.3f}), {interval(right)} above the base model; reward {interval(reward)}"
    )


def interval(differences: Sequence[Sequence[float]]) -> str:
    """A mean difference with its interval."""
    mean, low, high = paired(differences)
    return f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"


def bits(end: Record, one: str, other: str) -> list[float]:
    """Of each problem, whether one is right, less whether the other is."""
    return [int(a) - int(b) for a, b in zip(end[one]["right"], end[other]["right"], strict=True)]


def gained(end: Record, one: str, other: str) -> list[float]:
    """The difference of each problem's rewards."""
    return [a - b for a, b in zip(end[one]["rewards"], end[other]["rewards"], strict=True)]


def calibrated(ends: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """What the first run of a plan says about its noise."""
    start = next((r for r in records if r["kind"] == "start" and r["run"] == ends[0]["run"]), None)
    head = [] if start is None else start["head"]
    found = [f"> {line}  " for line in head if line.startswith(("noise:", "run:", "task:"))]
    return [*found, ""] if found else []


def short_answers(ends: Sequence[Record], records: Sequence[Record], title: str) -> list[str]:
    """Where the reward is length: the reward that is left, right answers, and which runs hacked."""
    rows: Rows = []
    for end in whole(ends):
        setting, seed = named(end)
        base, chosen, last = (end[who] for who in ("base", "selected", "centre"))
        verdicts = sum(1 for line in generations(records, end["run"]) if line.get("verdicts"))
        rows.append((
            setting,
            seed,
            f"{base['reward']:.1f} / {base['correct']:.2f}",
            f"{chosen['reward']:.1f} / {chosen['correct']:.2f}",
            f"{last['reward']:.1f} / {last['correct']:.2f}",
            f"{chosen['reward'] / base['reward']:.2f}" if base["reward"] else "",
            "yes" if chosen["correct"] >= base["correct"] else "no",
            "yes" if hacked(end) else "no",
            str(verdicts),
        ))  # fmt: skip
    head = (
        "setting", "seed", "base", "selected", "last", "reward left", "selected keeps the answers",
        "last hacked", "generations with a verdict",
    )  # fmt: skip
    note = "Test reward / share right. Hacked: a better reward with at least 0.1 fewer right answers."
    found = [f"## {title}", "", *calibrated(ends, records), note, "", *table(head, rows), ""]
    for setting, group in by_setting(whole(ends)).items():
        kept = sum(end["selected"]["correct"] >= end["base"]["correct"] for end in group)
        bad = sum(map(hacked, group))
        found.append(
            f"- {setting}: {summary_of(group)}; {kept} of {len(group)} selected centres keep the answers, "
            f"{bad} last centres hacked"
        )
    return found


def hacked(end: Record) -> bool:
    """Whether the last centre has more reward and clearly fewer right answers than the base model."""
    base, last = end["base"], end["centre"]
    return last["reward"] > base["reward"] and last["correct"] <= base["correct"] - 0.1 + 1e-9


def alternatives(ends: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """A row for each setting, the best first: what it changes against the first."""
    groups = by_setting(whole(ends))
    usual = statistics.mean(e["selected"]["correct"] for e in next(iter(groups.values())))
    rows: list[tuple[float, Sequence[str]]] = []
    for setting, group in groups.items():
        chosen, last = ([end[who]["correct"] for end in group] for who in ("selected", "centre"))
        reached = [first_at(records, end["run"], 0.5) for end in group]
        mean = statistics.mean(chosen)
        rows.append((
            -mean,
            (
                setting,
                str(len(group)),
                f"{mean:.3f} ({min(chosen):.3f}–{max(chosen):.3f})",
                f"{mean - usual:+.3f}",
                f"{statistics.mean(last):.3f} ({min(last):.3f}–{max(last):.3f})",
                ", ".join("never" if number is None else str(number) for number in reached),
            ),
        ))  # fmt: skip
    failed = [end for end in ends if "error" in end]
    head = ("setting", "runs", "selected, mean (range)", "against the first", "last", "test 0.5 reached at")
    return [
        "## Alternatives, held-out arithmetic",
        "",
        *calibrated(ends, records),
        "Differences below about 0.05 are within what two seeds of one setting differ by.",
        "",
        *table(head, [row for _, row in sorted(rows)]),
        *(f"\n- failed: {end['run']}: {end['error'][:120]}" for end in failed),
    ]


def first_at(records: Sequence[Record], run: str, share: float) -> int | None:
    """The first generation whose centre was right in so many test problems."""
    lines = generations(records, run)
    return next((line["generation"] for line in lines if line.get("test_correct", -1) >= share), None)


def noise_map(ends: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """A table of the map's cells; the figure shows the same."""
    rows: Rows = []
    for end in sorted(ends, key=lambda end: cell_place(end["run"])):
        form, relative, rate = cell_place(end["run"])
        first = next(generations(records, end["run"]), {})
        last = end.get("centre", {})
        values = [shown(last.get("correct")), shown(last.get("reward")), shown(first.get("members_correct"))]
        rows.append((form, f"{relative:g}", f"{rate:g}", *values, cell(end)))
    head = ("form", "noise", "learning rate", "right after 15", "reward", "members at first", "")
    base = next((end["base"] for end in ends if "error" not in end), {"correct": 0, "reward": 0})
    note = f"Base model: right {base['correct']:.3f}, reward {base['reward']:.3f}."
    title = ["## Map of noise and learning rate", "", "![map](evidence_map.png)", ""]
    return [*title, note, "", *table(head, rows)]


def shown(value: float | None) -> str:
    """A number, where there is one."""
    return "" if value is None else f"{value:.3f}"


def newcomer(ends: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """What a run without options says first, and what came of it."""
    found = ["## `es-ray run --model DIR`, no other option", ""]
    for end in ends:
        start = next((r for r in records if r["kind"] == "start" and r["run"] == end["run"]), {"head": []})
        found += ["```", *start["head"], "```", ""]
    return [*found, *short_answers(ends, records, "What came of it")[2:]]


def table(head: Sequence[str], rows: Rows) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
