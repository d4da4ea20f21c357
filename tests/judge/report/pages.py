"""Reports as a reader has them: the text of a page; and runs of any length, made of a short one."""

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

from es_ray.judge.report.page import write_report
from es_ray.runs.generation_folder import publish, write_population
from es_ray.runs.run_dir import RunDir
from tests.short_runs import json_lines

BLOCKS = ("div", "p", "pre", "td", "th", "dt", "dd", "li", "h1", "h2", "h3", "span", "summary", "figcaption")


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in BLOCKS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def parsed(page: str) -> tuple[str, list[tuple[str, dict]]]:
    """All text of a page with single spaces, and its tags with their attributes."""
    parser = _Text()
    parser.feed(page)
    return " ".join("".join(parser.parts).split()), parser.tags


def report(run: Path) -> str:
    """A run's report, which is written elsewhere: other tests look at what the run has left."""
    with TemporaryDirectory() as folder:
        return write_report(RunDir(run), Path(folder) / "a.html").read_text(encoding="utf-8")


def text(run: Path) -> str:
    """What a run's report says."""
    return parsed(report(run))[0]


def change(file: Path, edit: Callable[[dict], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def write_metrics(run: Path, count: int, **changes: Callable[[int], object]) -> None:
    """Make metrics.jsonl of so many generations; changes: keys by functions of the generation."""
    last = json_lines(run / "metrics.jsonl")[-1]
    made = ({key: make(number) for key, make in changes.items()} for number in range(count))
    lines = [json.dumps({**last, "generation": number, **one}) for number, one in enumerate(made)]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def add_generation(run: Path, number: int, population: list[dict]) -> None:
    """Publish a generation with such members, and the state of generation 0."""
    tmp = run / "generations" / f".{number:04d}"
    tmp.mkdir()
    write_population(tmp, [f"{json.dumps(member)}\n" for member in population])
    for name in ("state.json", "state.safetensors"):
        shutil.copy(run / "generations/0000" / name, tmp)
    publish(tmp, run / "generations" / f"{number:04d}", "")
