"""Figures of the evidence: the map of noise and learning rate, and held-out accuracy over generations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("agg")

from evidence_statistics import BETWEEN, BROKEN, DEAD, HACKED, WORKS, cell, cell_place  # noqa: E402
from evidence_store import Record  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from es_ray.callbacks.progress_figure import BLUE, GREEN, GREY, ORANGE, PURPLE  # noqa: E402

STYLE: Final = {"font.size": 11, "legend.fontsize": 10, "legend.frameon": False}
SKY, YELLOW = "#56b4e9", "#f0e442"
LOOKS: Final = {
    WORKS: (GREEN, "", "works: more right answers"),
    BETWEEN: (SKY, "..", "moves, answers as before"),
    DEAD: ("#d9d9d9", "", "dead: nothing moved"),
    HACKED: (YELLOW, "//", "hacked: more reward, fewer right"),
    BROKEN: (ORANGE, "xx", "broken: right answers lost"),
}
"""Colours that colour-blind people tell apart, and a hatch and a word besides."""


def draw_map(ends: Sequence[Record], path: Path) -> None:
    """A panel for each form: noise across, learning rate upwards; right answers and reward in each cell."""
    forms = sorted({cell_place(end["run"])[0] for end in ends})
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.6), dpi=110, layout="constrained")
        panels = figure.subplots(1, len(forms), squeeze=False)[0]
        for panel, form in zip(panels, forms, strict=True):
            _draw_form(panel, form, [end for end in ends if cell_place(end["run"])[0] == form])
        base = next((end["base"] for end in ends if "error" not in end), None)
        of_base = "" if base is None else f"; base model {base['correct']:.2f} ({base['reward']:.2f})"
        figure.suptitle(f"held-out sums right (and reward) after 15 generations{of_base}", fontsize=12)
        patches = [
            Patch(facecolor=c, hatch=h, edgecolor="white", label=word) for c, h, word in LOOKS.values()
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=3)
        figure.savefig(path)


def _draw_form(panel: Axes, form: str, ends: Sequence[Record]) -> None:
    places = {end["run"]: cell_place(end["run"])[1:] for end in ends}
    across, upwards = (sorted({place[axis] for place in places.values()}) for axis in (0, 1))
    for end in ends:
        relative, rate = places[end["run"]]
        x, y = across.index(relative), upwards.index(rate)
        colour, hatch, _ = LOOKS[cell(end)]
        panel.bar(x, 0.94, bottom=y - 0.47, width=0.94, color=colour, hatch=hatch, edgecolor="white", lw=0)
        centre = end.get("centre")
        text = "failed" if centre is None else f"{centre['correct']:.2f}\n({centre['reward']:.2f})"
        box = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1.5}
        panel.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)
    panel.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    panel.set_yticks(range(len(upwards)), [f"{value:g}" for value in upwards])
    panel.set_xlim(-0.5, len(across) - 0.5)
    panel.set_ylim(-0.5, len(upwards) - 0.5)
    panel.set_xlabel("relative noise")
    panel.set_ylabel("learning rate, in units of sigma")
    panel.set_title(f"lora.form {form}", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)


def draw_curves(curves: Mapping[str, Sequence[Record]], ends: Mapping[str, Record], path: Path) -> None:
    """Test accuracy over generations, a curve for each seed, with each selected centre as a star."""
    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY)
    dashes = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.6), dpi=110, layout="constrained")
        panel = figure.subplots()
        for number, (run, lines) in enumerate(curves.items()):
            style: dict[str, Any] = {"color": colours[number % 5], "ls": dashes[number % 5]}
            tested = [line for line in lines if "test_correct" in line]
            x, y = ([line[key] for line in tested] for key in ("generation", "test_correct"))
            panel.plot(x, y, lw=1.8, label=f"seed {run.rpartition('/')[2]}", **style)
            end = ends[run]
            if "error" not in end:
                at = end["chosen"]["generation"] + 1
                panel.plot(at, end["selected"]["correct"], "*", color=style["color"], ms=13, mec="white")
        base = [end["base"]["correct"] for end in ends.values() if "error" not in end]
        if base:
            panel.axhline(sum(base) / len(base), color=GREY, ls="--", lw=1.4, label="base model")
        panel.set_ylim(0, 1)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("generation")
        panel.set_ylabel("held-out sums right")
        panel.set_title(
            "SmolLM2-135M-Instruct, 64 members × 32 sums; stars: the selected centres", fontsize=12
        )
        figure.legend(loc="outside lower center", ncols=6)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path)
