"""The page: what is shown of a run, and writing it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from es_ray.config import Config
from es_ray.config.secrets import masked_tree
from es_ray.errors import RunError, UserError
from es_ray.judge.figure_style import run_title
from es_ray.judge.report import charts, facts
from es_ray.judge.report.comparison import Comparison, comparison
from es_ray.judge.report.marks import Chart
from es_ray.judge.report.members import member_answers
from es_ray.judge.report.spread import reward_spread
from es_ray.judge.report.svg import drawn, legend
from es_ray.judge.report.text import number, shown
from es_ray.judge.table import other_base
from es_ray.judge.thinning import consecutive
from es_ray.runs.atomic_io import write_text
from es_ray.runs.replay import has_exact_replay
from es_ray.runs.run_dir import RunDir

TEMPLATE = "page.html.jinja"
T = TypeVar("T")
MOST_STRETCHES = 5
"""Most stretches of generations that are listed for a kind of verdict."""


def write_report(run: RunDir, path: Path | None = None) -> Path:
    """Write a run's report, one HTML file, and return its path; default: report.html in the run directory.

    Works on any run with a finished generation, also one that is running or was killed. Raises UserError
    without one, RunError if the run's files are torn or the report cannot be written.
    """
    path = path or run.report_file
    page = rendered(run)
    try:
        write_text(path, page)
    except OSError as error:  # which names a temporary file
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def rendered(run: RunDir) -> str:
    """The HTML of a run's report."""
    # the page names paths, and may be read from anywhere
    return _templates().get_template(TEMPLATE).render(_content(RunDir(run.path.resolve())))


@cache
def _templates() -> Environment:
    """They are compiled once: that takes longer than a page."""
    return Environment(
        loader=FileSystemLoader(str(Path(__file__).parent)), autoescape=True, undefined=StrictUndefined,
        finalize=shown, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A chart on the page: its drawings, and its legend as (picture, label)."""

    chart: Chart
    key: str
    height: int | None = None

    @property
    def svg(self) -> Markup:
        """Both drawings."""
        return drawn(self.chart, self.key, self.height)

    @property
    def legend(self) -> list[tuple[Markup, str]]:
        """What each mark is."""
        return legend(self.chart)


def _content(run: RunDir) -> dict[str, Any]:
    complete = run.complete_generations()
    if not complete:
        raise UserError(f"{run.path}: has no finished generation to report")
    last = complete[-1]
    config, metrics, env = run.config(), run.metrics(last), facts.environment(run)
    selected, results = run.selected(), _results(run)
    compared = None if results is None else comparison(results, last)
    spread = reward_spread(run, complete)
    problems = list(spread.problems)
    base = _unless_damaged(run.base, problems)
    dtype = _unless_damaged(lambda: run.generation_folder(last).dtype, problems)
    members = _unless_damaged(lambda: member_answers(run, config, complete), problems)
    names = charts.metric_names(metrics)
    return {
        "title": run_title(config),
        "folder": str(run.path),
        "state": _state(config, metrics, results),
        "problems": list(dict.fromkeys(problems)),
        "tiles": list(_tiles(config, metrics, compared)),
        "machine": facts.machine(env, metrics, dtype),
        "settings": facts.settings(config, env),
        "config": _settings(run),
        "progress": Figure(charts.progress(metrics, base, config.evolution.population), "progress", 380),
        "verdicts": verdict_rows(metrics),
        "distribution": Figure(
            charts.distribution(metrics, spread, config.evolution.population), "distribution"
        ),
        "spread": spread,
        "complete": complete,
        "metrics": [
            Figure(charts.metric(metrics, base, name), f"metric{at}", 240)
            for at, name in enumerate(names[: charts.MOST_METRICS])
        ],
        "metrics_left_out": names[charts.MOST_METRICS :],
        "comparison": compared,
        "other_base": "" if results is None else other_base(config, base, results),
        "members": members,
        "distances": [
            Figure(chart, f"distance{at}", 220) for at, chart in enumerate(charts.distances(metrics))
        ],
        "kl_every": config.evaluation.kl_every,
        "seconds": Figure(charts.seconds(metrics), "seconds", 260),
        "phases": list(facts.phases(metrics)),
        "lost": [(line["generation"], line["redispatched"]) for line in metrics if line.get("redispatched")],
        "repeatable": config.engine.deterministic or has_exact_replay(run),
        "loading": facts.loading(run, config, last, selected, dtype),
        "repeat": facts.repeat(run),
        "started_with": facts.started_with(env),
    }


def _unless_damaged(read: Callable[[], T], problems: list[str]) -> T | None:
    """What is read; None if a file is damaged, which the page then names: the rest is worth a report."""
    try:
        return read()
    except RunError as error:
        problems.append(str(error))
        return None


def _settings(run: RunDir) -> str:
    """config.yaml without secrets."""
    tree = yaml.safe_load(run.config_file.read_text(encoding="utf-8"))
    return yaml.safe_dump(masked_tree(tree), sort_keys=False, allow_unicode=True)


def _results(run: RunDir) -> dict[str, Any] | None:
    """test_results.json; None before the run has ended; raises RunError for a torn one."""
    try:
        found: dict[str, Any] = json.loads(run.test_results_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{run.test_results_file}: torn or edited: no JSON") from error
    return found


def _state(config: Config, metrics: Sequence[Mapping[str, Any]], results: object) -> tuple[str, str]:
    """How far a run is, and the kind that colours it."""
    total, done = config.evolution.generations, len(metrics)
    if results is None:
        return f"{done} of {total} generations; no final evaluation yet: running, or ended before it", "wrong"
    if done < total:
        return f"ended by the guard after {done} of {total} generations", "wrong"
    return f"complete: {done} generations", "right"


def _tiles(
    config: Config, metrics: Sequence[Mapping[str, Any]], compared: Comparison | None
) -> Iterator[tuple[str, str, str]]:
    """The few numbers at the top: name, value, and what it was before."""
    if compared is not None:
        for name, cells in compared.rows[:3]:
            yield f"test {name}, last centre", cells[1].value, f"base model {cells[0].value}"
    else:
        first, now = metrics[0]["reward_mean"], metrics[-1]["reward_mean"]
        yield "mean training reward", number("reward", now), f"generation 0: {number('reward', first)}"
    yield "generations", str(len(metrics)), f"{config.evolution.population} members each"
    yield (
        "time",
        _clock(sum(line.get("seconds", {}).get("total", 0.0) for line in metrics)),
        "all generations",
    )
    yield "tokens", f"{sum(line.get('tokens', 0) for line in metrics):,}", "generated by members and centres"


def _clock(seconds: float) -> str:
    """A duration for people.

    >>> _clock(7.24), _clock(100), _clock(8000)
    ('7.2 s', '1 min 40 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def verdict_rows(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """For each kind of verdict, and for rollbacks: its word, its generations, its text at the first."""
    places, texts = dict[str, list[int]](), dict[str, str]()
    for line in metrics:
        found = {verdict.partition(":")[0]: verdict for verdict in line.get("verdicts", ())}
        if "rollback" in line:
            back = line["rollback"]
            where = "the start" if back < 0 else f"the centre after generation {back}"
            found["rollback"] = f"back to {where}, with half the learning rate"
        for word, text in found.items():
            places.setdefault(word, []).append(line["generation"])
            texts.setdefault(word, text)
    return [(word, _stretches(generations), texts[word]) for word, generations in places.items()]


def _stretches(generations: Sequence[int]) -> str:
    """Generations for people.

    >>> _stretches([3, 4, 5, 9]), _stretches(range(0, 20, 2))
    ('3 to 5, 9', '0, 2, 4, 6, 8, … (10 in all, the last is 18)')
    """
    spans = [
        f"{first}" if first == last else f"{first} to {last}" for first, last in consecutive(generations)
    ]
    if len(spans) <= MOST_STRETCHES + 1:
        return ", ".join(spans)
    return (
        f"{', '.join(spans[:MOST_STRETCHES])}, … ({len(generations)} in all, the last is {generations[-1]})"
    )
