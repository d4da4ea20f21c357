"""Tables and figures of what `evidence.py` measured.

    python3 benchmarks/evidence_report.py FOLDER ... [--output benchmarks/results/evidence]

Reads evidence.jsonl (or .jsonl.gz) of the folders, and notes.md where there is one, writes evidence.md,
evidence_map.png and evidence_arithmetic.png. Shares are of held-out problems; intervals are of 95 %.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from evidence_figures import draw_curves, draw_map  # noqa: E402
from evidence_forms import forms  # noqa: E402
from evidence_sections import alternatives, held_out, newcomer, noise_map, short_answers  # noqa: E402
from evidence_store import Record, generations, read  # noqa: E402

NOTES = "notes.md"
VERSIONS = ("es-ray", "torch", "transformers", "ray", "sglang")
FOLDERS = ("--work", "--results", "--output", "--seconds", "--calibrated")

Section = Callable[[Sequence[Record], Sequence[Record]], list[str]]


def titled(section: Callable[..., list[str]], title: str) -> Section:
    """A section with its title."""
    return lambda ends, records: section(ends, records, title)


SECTIONS: dict[str, Section] = {
    "arithmetic": titled(held_out, "Held-out arithmetic, general defaults as calibrated"),
    "brevity": titled(short_answers, "Brevity over many short questions"),
    "conciseness": titled(short_answers, "Conciseness, 2 training and 8 test questions"),
    "chain_sum": titled(held_out, "reasoning-gym's chain_sum, general defaults"),
    "chain_sum_short": titled(held_out, "chain_sum with 2 or 3 numbers of 1 or 2 digits"),
    "newcomer": newcomer,
    "alternatives": alternatives,
    "map": noise_map,
    "forms": forms,
    "smoke": titled(short_answers, "Whether everything runs"),
}


def main(
    folders: Annotated[list[Path], typer.Argument(help="What evidence.py wrote; later ones win.")],
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path(
        "benchmarks/results/evidence"
    ),
) -> None:
    """Write the report."""
    records: list[Record] = []
    for folder in folders:
        found = read(folder)
        again = {record.get("run") for record in found if record["kind"] != "call"}
        records = [record for record in records if record.get("run") not in again] + found
    output.mkdir(parents=True, exist_ok=True)
    notes = [f.read_text(encoding="utf-8") for f in (folder / NOTES for folder in folders) if f.is_file()]
    (output / "evidence.md").write_text(report(records, notes), encoding="utf-8")
    written = ["evidence.md"]
    if cells := of_plan(records, "map"):
        draw_map(list(cells.values()), output / "evidence_map.png")
        written.append("evidence_map.png")
    if runs := of_plan(records, "arithmetic"):
        curves = {run: list(generations(records, run)) for run in runs}
        draw_curves(curves, runs, output / "evidence_arithmetic.png")
        written.append("evidence_arithmetic.png")
    print(f"wrote {', '.join(str(output / name) for name in written)}")


def of_plan(records: Iterable[Record], plan: str) -> dict[str, Record]:
    """The ends of a plan's runs, by name."""
    ends = (r for r in records if r["kind"] == "end")
    return {end["run"]: end for end in ends if end["run"].partition("/")[0] == plan}


def report(records: Sequence[Record], notes: Sequence[str] = ()) -> str:
    """evidence.md; notes: what the records do not say."""
    calls = [record for record in records if record["kind"] == "call"]
    parts = ["# Evidence on a real model", "", *notes, *machine(calls), ""]
    for plan, section in SECTIONS.items():
        ends = of_plan(records, plan)
        if ends:
            parts += [*section(list(ends.values()), records), ""]
    return "\n".join(parts).rstrip() + "\n"


def machine(calls: Sequence[Record]) -> list[str]:
    """What the calls ran on, and how; folders are left out, as they say nothing."""
    lines: dict[str, str] = {}
    for call in calls:
        environment = call["environment"]
        hardware, versions = environment["hardware"], environment["versions"]
        where = ", ".join(hardware["gpus"]) or hardware["cpu"]
        known = ", ".join(f"{name} {versions[name]}" for name in VERSIONS if versions.get(name))
        command = " ".join(["python3 benchmarks/evidence.py", *without_folders(call["arguments"])])
        lines.setdefault(command, f"- {environment['date'][:10]}, {where}, {known}: `{command}`")
    return list(lines.values())


def without_folders(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without the options that name folders and when to stop."""
    found, skip = [], False
    for argument in arguments:
        if not skip and argument not in FOLDERS:
            found.append(f"'{argument}'" if " " in argument else argument)
        skip = not skip and argument in FOLDERS
    return found


if __name__ == "__main__":
    typer.run(main)
