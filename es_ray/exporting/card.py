"""The model card of an exported adapter or model: README.md, as the Hugging Face hub reads it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from es_ray import __version__
from es_ray.config import BUNDLED
from es_ray.exporting.chosen import Chosen
from es_ray.exporting.facts import Facts, Figure
from es_ray.exporting.settings import as_lines, changed_settings, repeat_command, without_folders
from es_ray.imports import short_name
from es_ray.judge.table import formatted, shown
from es_ray.runs.cards import ONLY_B

SAMPLES: Final = 3
MOST_CHARACTERS: Final = 1000
"""Of a prompt or an answer."""
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    base: the base model's name elsewhere; on_hub: whether it is one on the hub; merged: whether the adapter
    is in the weights; agreement: what was checked then, as a sentence; dtype: of the weights, or of the
    recorded answers; rank, share: of the adapter nearest to the updates of form `merged`, as `Exported`.
    """

    chosen: Chosen
    facts: Facts
    base: str
    on_hub: bool
    merged: bool
    dtype: str
    agreement: str | None = None
    rank: int | None = None
    share: float | None = None

    def text(self) -> str:
        """The whole file."""
        parts = (
            self._head(),
            self._figures(),
            self._samples(),
            self._loading(),
            self._making(),
        )
        return self._front_matter() + "\n".join(parts)

    def _front_matter(self) -> str:
        config, source = self.chosen.past.config, self.chosen.past.experiment.source
        values: dict[str, Any] = {
            "library_name": "transformers" if self.merged else "peft",
            "pipeline_tag": "text-generation",
            "tags": ["evolution-strategies", "es-ray", *([] if self.merged else ["lora"])],
        }
        if self.on_hub:  # the hub refuses what is no name there
            values["base_model"] = self.base
            values["base_model_relation"] = "finetune" if self.merged else "adapter"
        licence = base_licence(source.folder)
        if licence:
            values |= licence
        if isinstance(config.task.train, str) and config.task.train.startswith("hf:"):
            values["datasets"] = [re.split("[@:]", config.task.train.removeprefix("hf:"))[0]]
        return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"

    def _head(self) -> str:
        config, past = self.chosen.past.config, self.chosen.past
        task = without_folders(config.task.name)
        full = config.lora.form == "merged"
        what = "with an adapter merged into its weights" if self.merged else "as a PEFT adapter"
        if full and self.merged:
            what = "with updates of its weights"
        through = (
            "whose updates go into the weights (arXiv 2511.16652)"
            if full
            else "through LoRA (arXiv 2509.24372)"
        )
        notes = [f"It is {self.chosen.name}: {self.chosen.why}."]
        if self.chosen.note is not None:
            notes.append(f"It was rebuilt from the run's seed and recorded advantages; {self.chosen.note}.")
        if self.agreement is not None:
            against = "base model and updates" if full else "base model and adapter"
            notes.append(f"Checked against {against}: {self.agreement}.")
        if self.share is not None:
            notes.append(
                f"Of the norm of the run's updates, which have a higher rank, an adapter of rank {self.rank} "
                f"has {self.share:.1%}: figures and samples are those of the whole model, not its own."
            )
        if config.lora.form == "b" and not self.merged:
            notes.append(ONLY_B.strip())
        rows = [f"| {split} | {name} | {digest} |" for split, name, digest in _data(past)]
        return (
            f"\n# {self.base}, evolved for {short_name(task)}\n\n"
            f"{self.base}, {what}, evolved with es-ray: Evolution Strategies {through}, "
            f"without gradients, from rewards of its answers alone. "
            f"{' '.join(notes)}\n\n"
            f"- Base model: {_code(self.base)}{self._where(past)}\n"
            f"- Task (reward): {_code(str(task))}\n"
            f"- {self._evolved()}\n"
            f"- {config.evolution.population} members in each of {len(past.run.complete_generations())} "
            "generations\n\n"
            "| data | | SHA-256 of the examples |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )

    def _evolved(self) -> str:
        lora, layout = self.chosen.past.config.lora, self.chosen.past.experiment.layout
        matrices = f"{len(layout.modules)} matrices"
        if lora.form != "merged":
            return f"Adapter: rank {lora.rank}, alpha {lora.alpha:g}, {matrices}, {layout.size:,} entries"
        changes = f"{matrices}, evolved by members' changes of rank {lora.rank}"
        return (
            f"Weights: {changes}" if self.rank is None else f"Adapter: rank {self.rank}, nearest to {changes}"
        )

    def _where(self, past: Any) -> str:
        if past.config.model.path == BUNDLED:
            return ", which comes with es-ray"
        if not self.on_hub:
            return ", a folder on the machine of the run"
        revision = past.experiment.source.revision
        return "" if revision is None else f", revision {_code(revision)}"

    def _figures(self) -> str:
        found = self.facts
        if not found.figures:
            body = "Not recorded: this adapter was not evaluated in the run.\n"
        else:
            table = "".join(map(_row, found.figures))
            body = (
                f"{_which(found)}\n\n| | base model | this | difference |\n| --- | --- | --- | --- |\n{table}"
            )
            if any(figure.difference for figure in found.figures):
                body += (
                    "\nDifferences are with 95% intervals: bootstrap over the prompts, each with itself.\n"
                )
        return f"## Figures\n\n{body}\n{self._verdicts()}"

    def _verdicts(self) -> str:
        guard = self.chosen.past.config.guard
        if self.facts.verdicts is None:
            return "The guard has no verdict on record for this adapter: it judges the centres of a run.\n"
        if not self.facts.verdicts:
            return f"Verdicts of the guard (a drop of at most {guard.max_drop:g}): none.\n"
        return f"Verdicts of the guard: **{', '.join(self.facts.verdicts)}**.\n"

    def _samples(self) -> str:
        if not self.facts.samples:
            return ""
        parts = [
            f"{_fenced(prompt)}\nBase model:\n\n{_fenced(before)}\nThis:\n\n{_fenced(after)}"
            for prompt, before, after in self.facts.samples[:SAMPLES]
        ]
        several = f"The first {len(parts)} prompts of the {self.facts.split} split, greedy answers.\n\n"
        if self.chosen.past.config.task.temperature:
            several = several.replace("greedy answers", "the first sample of each")
        return "## Samples\n\n" + several + "\n---\n\n".join(parts)

    def _loading(self) -> str:
        return f"## Loading\n\n{self._merged_loading() if self.merged else self._adapter_loading()}"

    def _merged_loading(self) -> str:
        return (
            "```python\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("FOLDER_OR_NAME", dtype="{self.dtype}")\n'
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OR_NAME")\n```\n\n'
            "```sh\npython -m sglang.launch_server --model-path FOLDER_OR_NAME\n"
            "vllm serve FOLDER_OR_NAME\n```\n"
        )

    @property
    def _loadable(self) -> str:
        """The base model as an argument: a folder's name alone would find nothing."""
        return self.base if self.on_hub else f"PATH_TO/{self.base}"

    def _adapter_loading(self) -> str:
        own = self.rank or self.chosen.past.config.lora.rank
        rank = next((each for each in VLLM_RANKS if each >= own), VLLM_RANKS[-1])
        base, quoted = self._loadable, json.dumps(self._loadable)
        where = "" if self.on_hub else f"`{base}`: the base model's folder, as it was used in the run.\n\n"
        return where + (
            "```python\nfrom peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'base = AutoModelForCausalLM.from_pretrained({quoted}, dtype="{self.dtype}")\n'
            'model = PeftModel.from_pretrained(base, "FOLDER_OR_NAME")\n'
            f"tokenizer = AutoTokenizer.from_pretrained({quoted})\n```\n\n"
            f"```sh\npython -m sglang.launch_server --model-path {base} --enable-lora "
            "--lora-paths evolved=FOLDER_OR_NAME\n"
            f"vllm serve {base} --enable-lora --max-lora-rank {rank} "
            "--lora-modules evolved=FOLDER_OR_NAME\n```\n\n"
            f"Answers of the run were made in {self.dtype}; in another dtype near ties between tokens may be "
            "broken differently.\n"
        )

    def _making(self) -> str:
        config = self.chosen.past.config
        changed = changed_settings(config)
        rows = "".join(f"| {_code(key)} | {_code(_value(value))} |\n" for key, value in changed.items())
        table = f"| setting | value |\n| --- | --- |\n{rows}" if rows else "None.\n"
        command = as_lines(repeat_command(config, self._loadable))
        return (
            f"## How it was made\n\nes-ray {__version__}:\n\n```sh\n{command}\n```\n\n"
            "Settings that are not the defaults, or that `auto` came to on the machine of the run:\n\n"
            f"{table}"
        )


def base_licence(folder: Path | None) -> dict[str, str]:
    """The licence in a base model's own card, as front matter; empty if it names none."""
    card = None if folder is None else folder / "README.md"
    if card is None or not card.is_file():
        return {}
    matter = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        found = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:  # a card is for people: what cannot be read names no licence
        found = None
    if not isinstance(found, Mapping):
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: found[key] for key in keys if isinstance(found.get(key), str)}


def _data(past: Any) -> list[tuple[str, str, str]]:
    """(split, name, fingerprint) of the examples, without folders."""
    prints = past.run.generation_folder(past.generation).fingerprints
    task = past.config.task
    return [
        (
            {"train": "training"}.get(split, split),
            _code(str(without_folders(getattr(task, split) or f"of the task {short_name(task.name)}"))),
            _code(digest[:16]),
        )
        for split, digest in prints.items()
    ]


def _which(found: Facts) -> str:
    split = {"train": "training"}.get(found.split, found.split)
    return f"Means over the {split} prompts{'' if found.prompts is None else f' ({found.prompts})'}."


def _row(figure: Figure) -> str:
    base = "" if figure.base is None else formatted(figure.name, figure.base)
    return f"| {figure.name} | {base} | {formatted(figure.name, figure.exported)} | {_change(figure)} |\n"


def _change(figure: Figure) -> str:
    if figure.difference is None:
        return ""
    mean, low, high = (formatted(figure.name, value) for value in figure.difference)
    sign = "+" if figure.difference.mean > 0 else ""
    return f"{sign}{mean} ({low} to {high})"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str) -> str:
    """As code in a line of Markdown, in a table too."""
    plain = " ".join(shown(text).split()).replace("|", "\\|")
    ticks = "`" * (max(map(len, re.findall("`+", plain)), default=0) + 1)
    space = " " if "`" in plain else ""
    return f"{ticks}{space}{plain}{space}{ticks}"


def _fenced(text: str) -> str:
    """A text as a block in which nothing is Markdown."""
    plain = shown(text)
    if len(plain) > MOST_CHARACTERS:
        plain = f"{plain[:MOST_CHARACTERS]} [...]"
    ticks = "`" * max(3, max(map(len, re.findall("`+", plain)), default=0) + 1)
    return f"{ticks}text\n{plain}\n{ticks}\n"
