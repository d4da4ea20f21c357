"""The guard of a run: judges each centre, and says which one to go back to, to end with, and to use.

It looks at validation where there is some, else at training. What it knows is in the run directory: the
lines of metrics.jsonl, and in each state.json the base model's answers. So a resumed run judges on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from es_ray.config import Config
from es_ray.errors import RunError
from es_ray.evaluation import BASE, CENTRE, Outcomes
from es_ray.evaluation.degenerate import AnswerCounts
from es_ray.evaluation.kl import kl_key
from es_ray.judge.selection import JudgedCentre, select, selected_record
from es_ray.judge.verdicts import Estimate, broken, dropped, junk, too_far

WINDOW: Final = 5
"""Generations over which a metric is averaged where each has other prompts."""
COUNTS: Final = "answers"


class Guard:
    """Judges the centres of a run in their order.

    splits: which the run has; lines: of metrics.jsonl so far; reference: the base model's rewards, metrics
    and `answers` (AnswerCounts) on the guard's split, as state.json has them; None before generation 0.
    """

    def __init__(
        self,
        config: Config,
        splits: Sequence[str],
        lines: Sequence[Mapping[str, Any]] = (),
        reference: dict[str, Any] | None = None,
    ) -> None:
        self._config, self.reference = config, reference
        self._kl = kl_key(config.lora.form)
        drawn = config.task.batch is not None
        self.split = "validation" if "validation" in splits else "train"
        self._by_reward = self.split == "validation" or not drawn
        assert config.task.batch != "auto"  # resolve_config has settled it
        self._prompts = None if self._by_reward else config.task.batch
        prefixes = {"validation": "validation", "train": "centre" if self._by_reward else "members"}
        self._prefix = prefixes[self.split]
        self._centres: list[JudgedCentre] = []
        self._window: list[float] = []
        self._past: list[Estimate] = []
        for line in lines:
            self._remember(line, line.get("verdicts", ()))

    @property
    def stops(self) -> bool:
        """Whether the run is to end: the last centre has a verdict."""
        return self._config.guard.action == "stop" and self._has_verdict

    @property
    def rollback_target(self) -> int | None:
        """The generation whose centre to go back to: the selected one, if the last one has a verdict.

        None without `rollback`, and where no centre is free of verdicts.
        """
        if self._config.guard.action != "rollback" or not self._has_verdict:
            return None
        chosen = select(self._centres, self._by_reward)
        return None if chosen is None else chosen.generation

    @property
    def selected(self) -> dict[str, Any]:
        """For selected.json; at least one centre has been judged."""
        return selected_record(self._centres, self.split, self._by_reward)

    def judge(self, metrics: Mapping[str, Any], outcomes: Outcomes) -> list[str]:
        """The verdicts on the centre that a generation starts from; it is remembered with them.

        metrics: the generation's line so far, with `kl` where it was measured. Raises RunError if the task
        does not have the metric that is to be watched.
        """
        wanted = self._config.guard.metric
        if wanted is not None and wanted not in outcomes.metric_names:
            names = ", ".join(outcomes.metric_names) or "none"
            raise RunError(f"guard.metric: {wanted!r} is no metric of the task, which has {names}")
        if metrics["generation"] == 0:
            counts = outcomes.answer_counts(BASE, self.split)
            self.reference = {**outcomes.summary(BASE, self.split), COUNTS: counts._asdict()}
        verdicts = self._verdicts(metrics, outcomes)
        self._remember(metrics, verdicts)
        return verdicts

    def judge_final(self, generation: int, outcomes: Outcomes) -> list[str]:
        """The same for the centre that the run ends with, which has answered the guard's split.

        generation: the one that would start from it.
        """
        summary = outcomes.summary(CENTRE, self.split)
        metrics = {f"{self._prefix}_{name}": value for name, value in summary.items()}
        metrics |= {} if outcomes.kl is None else {self._kl: outcomes.kl}
        return self.judge({"generation": generation, **metrics}, outcomes)

    def record(self, rollback: int | None) -> dict[str, Any]:
        """For state.json, with the generation to whose centre the run goes back, if it does."""
        return {"reference": self.reference, "rollback": rollback}

    def rolled_back(self) -> None:
        """The run goes on from another centre: other generations' prompts say nothing about it."""
        self._window.clear()

    def junk(self, outcomes: Outcomes) -> list[str]:
        """Why the members of generation 0 are mostly broken, compared with the base model; empty if not."""
        base, means = outcomes.summary(BASE, "train"), outcomes.member_metrics()
        name = self._config.guard.metric or "correct"
        values = (float(means[name].mean()), base[name]) if name in means else None
        return junk(outcomes.member_counts(), outcomes.answer_counts(BASE, "train"), name, values)

    @property
    def _has_verdict(self) -> bool:
        return bool(self._centres and self._centres[-1].verdicts)

    def _verdicts(self, metrics: Mapping[str, Any], outcomes: Outcomes) -> list[str]:
        limits, base = self._config.guard, self.reference or {}
        found: list[str | None] = []
        name, value = limits.metric or "correct", self._watched(metrics)
        if value is not None:
            now = self._estimate([*self._window, value])
            before = Estimate(base[name], self._prompts) if name in base else None
            prompts = self._prompts or self._asked(outcomes)
            found.append(dropped(name, now, before, self._past, limits.max_drop, prompts))
        if limits.max_kl is not None and self._kl in metrics:
            found.append(too_far(metrics[self._kl], limits.max_kl))
        if base and self.split in outcomes.splits(CENTRE):
            found += broken(outcomes.answer_counts(CENTRE, self.split), AnswerCounts(**base[COUNTS]))
        return [verdict for verdict in found if verdict is not None]

    def _remember(self, line: Mapping[str, Any], verdicts: Sequence[str]) -> None:
        value = self._watched(line)
        if value is not None:
            self._window = [*self._window, value][-WINDOW:]
            self._past.append(self._estimate(self._window))
        reward = line.get(f"{self._prefix}_reward") if self._by_reward else None
        self._centres.append(JudgedCentre(line["generation"] - 1, reward, tuple(verdicts)))
        if "rollback" in line:
            self.rolled_back()

    def _watched(self, line: Mapping[str, Any]) -> float | None:
        """The watched metric of a line; None where it was not measured, or the task has none."""
        found: float | None = line.get(f"{self._prefix}_{self._config.guard.metric or 'correct'}")
        return found

    def _asked(self, outcomes: Outcomes) -> int:
        """How many prompts of the guard's split the centre answered."""
        return outcomes.answer_counts(CENTRE, self.split).answers // self._config.task.samples

    def _estimate(self, window: Sequence[float]) -> Estimate:
        """The last generations' mean where prompts are drawn, else the last value."""
        if self._prompts is None:
            return Estimate(window[-1])
        recent = window[-WINDOW:]
        return Estimate(sum(recent) / len(recent), self._prompts * len(recent))
