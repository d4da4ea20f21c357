"""`es_ray.export`: an adapter of a past run, or the model with it merged in, in a folder for others."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from es_ray.config import BUNDLED
from es_ray.errors import RunError, UserError
from es_ray.exporting import hub
from es_ray.exporting.agreement import Agreement, agreement
from es_ray.exporting.card import Card
from es_ray.exporting.changes import nearest_adapter, weight_changes
from es_ray.exporting.chosen import Chosen, choose
from es_ray.exporting.facts import facts
from es_ray.exporting.weights import INDEX, weight_files, write_merged
from es_ray.interrupts import interrupts_once
from es_ray.lora.peft_files import AdapterWriter
from es_ray.models import ModelSource
from es_ray.runs.atomic_io import sync_tree, writing
from es_ray.runs.run_dir import RunDir

BESIDE_WEIGHTS: Final = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tekken.json",
    "vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template.jinja", "chat_template.json",
    "LICENSE*", "LICENCE*", "NOTICE*", INDEX,
)  # fmt: skip
"""What else of a model's folder belongs to the model: names that are known, as anything may lie there."""
CARD: Final = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written. output: the folder; name: of the adapter, for people; generation (-1: the start),
    index: as `Chosen` has them; base: the base model; agreement: of a merged model with base model and
    adapter; url: where it was pushed to; share: of the norm of form `merged`'s changes, what an adapter of
    the rank that was asked for has.
    """

    output: Path
    name: str
    generation: int
    index: int | None
    base: str
    agreement: Agreement | None = None
    url: str | None = None
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "output": str(self.output),
            "generation": self.generation,
            "index": self.index,
            "base": self.base,
            "merged": self.agreement is not None,
            "check": None if self.agreement is None else self.agreement.as_json(),
            "url": self.url,
            "share": self.share,
        }


@interrupts_once()
def export(
    run_dir: str | Path,
    output: str | Path,
    *,
    generation: int | None = None,
    index: int | None = None,
    best: bool = False,
    last: bool = False,
    merged: bool = False,
    rank: int | None = None,
    base: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
) -> Exported:
    """Write an adapter of a run as a PEFT adapter, or merged into the base model's weights, with a card.

    output: a new or empty folder, which appears complete or not at all. By default the run's selected centre;
    else the centre after a generation, or with index a member of it; best: the best member; last: the last
    centre. merged: W + alpha / r * B A, computed in float32 and rounded to the dtype of W, in files as the
    base model has them; base model with adapter and merged model must then answer alike. rank: of a run of
    form `merged`, the nearest adapter of that rank instead of the whole model. base: the base
    model's name on the hub, where the run's was a folder; push_to_hub: a repository's name; private: for a
    new one. Raises UserError for bad input, before anything is written; RunError where a check or an upload
    fails.
    """
    run, folder = RunDir.open(Path(run_dir)), Path(output)
    _check_output(folder)
    if private and push_to_hub is None:
        raise UserError("--private: has no effect without --push-to-hub")
    if base is not None:
        hub.check_base(base)
    chosen = choose(run, generation, index, best, last)
    _check_form(chosen, merged, rank)
    source = chosen.past.experiment.source
    is_folder = Path(source.path).is_dir()
    if push_to_hub is not None:
        hub.check_name(push_to_hub)
        if is_folder and base is None and not merged:
            raise UserError(
                f"--push-to-hub {push_to_hub}: others cannot find the base model {source.name}, a folder of "
                "this machine; name it with --base OWNER/NAME, or export the whole model with --merged"
            )
    chosen.past.check_weights()  # of another model's weights an adapter would make something else
    known = base or source.path
    card = Card(
        chosen=chosen,
        facts=facts(chosen),
        base=base or ("tiny_chat" if chosen.past.config.model.path == BUNDLED else _name(source)),
        on_hub=base is not None or not is_folder,
        merged=merged,
        dtype="auto"
        if merged
        else chosen.past.run.generation_folder(chosen.past.generation).dtype or "float32",
    )
    layout, revision = chosen.past.experiment.layout, None if base else source.revision
    found = share = None
    with writing(folder), _complete_or_not_at_all(folder) as tmp:
        if merged:
            found = _write_merged(chosen, tmp)
            card = Card(**{**vars(card), "agreement": str(found)})
        elif rank is not None:
            nearest = nearest_adapter(weight_changes(chosen), layout, rank)
            share, card = nearest.share, replace(card, rank=rank, share=nearest.share)
            AdapterWriter(nearest.layout, known, revision).write(nearest.vector, tmp, "")
        else:
            AdapterWriter(layout, known, revision).write(chosen.vector(), tmp, "")
        (tmp / CARD).write_text(card.text(), encoding="utf-8")
    url = None if push_to_hub is None else hub.push(folder, push_to_hub, private)
    return Exported(folder, chosen.name, chosen.generation, chosen.index, card.base, found, url, share)


def _check_form(chosen: Chosen, merged: bool, rank: int | None) -> None:
    """Raise UserError for what a run of its form of adapter does not have."""
    path, form = chosen.past.run.path, chosen.past.config.lora.form
    if form == "merged" and merged == (rank is not None):
        raise UserError(
            f"{path}: a run of lora.form merged has no adapter; --merged writes the whole model, --rank K "
            "the nearest adapter of that rank: one of the two is needed"
        )
    if form != "merged" and rank is not None:
        raise UserError(f"--rank {rank}: is for runs of lora.form merged; this one has adapters of its own")


def _check_output(folder: Path) -> None:
    """Raise UserError unless it is a new or empty folder in one that can be written."""
    if folder.is_symlink() or os.path.ismount(folder):
        what = "a link" if folder.is_symlink() else "a mount point"
        raise UserError(
            f"--output {folder}: is {what}, which no finished folder can replace; name a new folder"
        )
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder}: exists and is not an empty folder")
    above = next(each for each in folder.absolute().parents if os.path.lexists(each))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"--output {folder}: cannot be written: {above} is no folder, or read-only for this user"
        )


def _name(source: ModelSource) -> str:
    return source.name if Path(source.path).is_dir() else source.path


def _write_merged(chosen: Chosen, folder: Path) -> Agreement:
    """The merged model into an empty folder; raises RunError if it does not answer as the adapter does."""
    import torch

    source, layout = chosen.past.experiment.source, chosen.past.experiment.layout
    changes = weight_changes(chosen)
    origin = _files_of(source)
    files = weight_files(origin)
    chosen.past.check_files(origin)  # only now all files are here, and a name on the hub may have new ones
    dtypes = write_merged(files, folder, changes)
    for pattern in BESIDE_WEIGHTS:
        for file in origin.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    coarsest = max(dtypes, key=lambda name: torch.finfo(getattr(torch, name)).eps)
    if layout.form == "merged":
        found = agreement(chosen, changes, folder, coarsest)
    else:
        with tempfile.TemporaryDirectory() as adapter:
            AdapterWriter(layout, source.path, source.revision).write(chosen.vector(), Path(adapter), "")
            found = agreement(chosen, Path(adapter), folder, coarsest)
    if not found.alike:
        raise RunError(
            f"--merged: the merged model does not answer as the adapter does: {found}; not written"
        )
    return found


def _files_of(source: ModelSource) -> Path:
    """The folder of all of a model's files; those of one on the hub are downloaded if they are missing."""
    if Path(source.path).is_dir():
        return Path(source.path)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source.path,
                revision=source.revision,
                allow_patterns=[*BESIDE_WEIGHTS, "model*.safetensors", CARD],
            )
        )
    except Exception as error:  # whatever its library for HTTP raises
        raise source.unusable(error) from error


@contextmanager
def _complete_or_not_at_all(folder: Path) -> Iterator[Path]:
    """A temporary folder that gets the name of `folder` at the end, and is removed if anything fails."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    tmp = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    tmp.mkdir()
    try:
        yield tmp
        sync_tree(tmp)
        tmp.replace(folder.absolute())  # an empty folder is replaced
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
