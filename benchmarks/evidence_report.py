"""Tables and figures of what `evidence.py` measured.

    python3 benchmarks/evidence_report.py FOLDER ... [--output benchmarks/results]

Reads evidence.jsonl (or .jsonl.gz) of the folders, writes evidence.md, evidence_map.png and
evidence_arithmetic.png. Shares are of held-out problems; intervals are of 95 %.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from evidence_figures import draw_curves, draw_map  # noqa: E402
from evidence_sections import SECTIONS  # noqa: E402
from evidence_store import Record, generations, read  # noqa: E402


def main(
    folders: Annotated[list[Path], typer.Argument(help="What evidence.py wrote; later ones win.")],
    output: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("benchmarks/results"),
) -> None:
    """Write the report."""
    records: list[Record] = []
    for folder in folders:
        found = read(folder)
        again = {record.get("run") for record in found if record["kind"] != "call"}
        records = [record for record in records if record.get("run") not in again] + found
    output.mkdir(parents=True, exist_ok=True)
    (output / "evidence.md").write_text(report(records), encoding="utf-8")
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


def report(records: Sequence[Record]) -> str:
    """evidence.md."""
    calls = [record for record in records if record["kind"] == "call"]
    parts = ["# Evidence on a real model", "", *machine(calls), ""]
    for plan, section in SECTIONS.items():
        ends = of_plan(records, plan)
        if ends:
            parts += [*section(list(ends.values()), records), ""]
    return "\n".join(parts).rstrip() + "\n"


def machine(calls: Sequence[Record]) -> list[str]:
    """What the calls ran on, and how."""
    lines = []
    for call in calls:
        environment = call["environment"]
        hardware, versions = environment["hardware"], environment["versions"]
        where = ", ".join(hardware["gpus"]) or hardware["cpu"]
        shown = [name for name in ("es-ray", "torch", "sglang") if versions.get(name)]
        known = ", ".join(f"{name} {versions[name]}" for name in shown)
        command = " ".join(["python3 benchmarks/evidence.py", *call["arguments"]])
        lines.append(f"- {environment['date']}: {where}; {known}; `{command}`")
    return lines


if __name__ == "__main__":
    typer.run(main)
