"""Two tables of benchmarks/results/evidence/evidence.md as figures in docs/images/.

python docs/scripts/evidence_figures.py
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
EVIDENCE = (ROOT / "benchmarks/results/evidence/evidence.md").read_text(encoding="utf-8")
IMAGES = ROOT / "docs/images"
BASE = 25.0
"""Right answers of the base model to the test problems, in per cent."""
STYLES = {"merged": ("#0072b2", "-"), "b": ("#d55e00", "--"), "both": ("#009e73", ":")}


def table(section: str, first: str) -> list[list[str]]:
    """The cells of a section's table whose header begins so, header first."""
    text = EVIDENCE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = next(part for part in text.split("\n\n") if part.startswith(f"| {first} |"))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()]
    return [lines[0], *lines[2:]]


def forms(file: Path) -> None:
    """Centres of the forms by generation: means over three seeds, and the longer runs of one seed."""
    header, *rows = table("Full rank against adapters, held-out arithmetic", "form | 0")
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, *cells in rows:
        form, _, kind = name.partition(", ")
        colour, line = STYLES[form]
        points = [(int(g), 100 * float(cell)) for g, cell in zip(header[1:], cells, strict=True) if cell]
        decay = "decay" in kind
        axes.plot(
            *zip(*points, strict=True),
            color="#666666" if decay else colour,
            linestyle="-." if decay else line,
            linewidth=1 if kind else 2.5,
            label=f"{name}, {'one seed' if kind else 'three seeds'}",
        )
    axes.axhline(BASE, color="#333333", linewidth=0.8)
    axes.annotate("base model", (290, BASE + 1), ha="right")
    axes.set(xlabel="generation", ylabel="200 unseen sums right (%)", ylim=(0, 80))
    axes.set_title("Forms, 64 members × 32 sums, 1 σ, SmolLM2-135M-Instruct")
    axes.legend(ncols=2, loc="lower right", frameon=False)
    figure.savefig(file, dpi=110)


def alternatives(file: Path) -> None:
    """Selected centres after 40 generations with other settings: the mean and the range of two seeds."""
    _, *rows = table("Alternatives, held-out arithmetic", "setting")
    numbers = [[100 * float(n) for n in re.findall(r"\d\.\d+", row[2])] for row in rows]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for place, (mean, low, high) in enumerate(reversed(numbers)):
        axes.barh(place, mean, color="#9ec5e3")
        axes.plot([low, high], [place, place], color="#0072b2", linewidth=3)
        axes.annotate(f"{mean:.0f}", (1, place), va="center")
    names = ["as set (1 σ)" if row[0] == "as calibrated" else row[0] for row in reversed(rows)]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(BASE, color="#333333", linewidth=0.8, label="base model")
    axes.set(
        xlabel="200 unseen sums right after 40 generations (%): mean, and both of two seeds", xlim=(0, 70)
    )
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    forms(IMAGES / "forms.png")
    alternatives(IMAGES / "alternatives.png")
