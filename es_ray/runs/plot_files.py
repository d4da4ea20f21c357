"""The files in a run's folder of plots: one for each generation that was drawn, and a copy of the last."""

import re
from pathlib import Path

_NAME = re.compile(r"evolution_progress_gen(\d+)\.png")


def plot_file(folder: Path, generation: int) -> Path:
    """The plot of the progress up to a generation."""
    return folder / f"evolution_progress_gen{generation}.png"


def latest_plot(folder: Path) -> Path:
    """A copy of the plot that was drawn last."""
    return folder / "latest.png"


def plotted(folder: Path) -> list[int]:
    """The generations that have a plot, ascending."""
    return sorted(int(match[1]) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name)))


def remove_plots_after(folder: Path, generation: int) -> None:
    """Remove the plots of later generations, and the copy of one of them."""
    later = [number for number in plotted(folder) if number > generation]
    if later:
        latest_plot(folder).unlink(missing_ok=True)  # first: what is left says that it is to be drawn
    for number in later:
        plot_file(folder, number).unlink()
