"""Where a model comes from, and what is known about it before its weights are loaded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from es_ray.config import BUNDLED, ModelConfig
from es_ray.errors import UserError
from es_ray.models.files import has_vocabulary, is_torn, torn_file, weight_digests
from es_ray.paths import data_dir

OWN_TEMPLATE_KWARGS = (
    "messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"
)  # fmt: skip
"""What `model.chat_template_kwargs` cannot change."""
COPY_AGAIN = "copy the complete model folder again"


def looks_local(path: str) -> bool:
    """Whether a model's path can only be a folder: a name on the hub is owner/name."""
    return path.startswith((".", "/", "~")) or path.count("/") != 1


@dataclass(frozen=True)
class ModelSource:
    """A model's files: a folder, or a name on the Hugging Face hub with a revision.

    chat, template_kwargs: as `model.chat` and `model.chat_template_kwargs` of the configuration.
    """

    path: str
    revision: str | None = None
    chat: str = "auto"
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, config: ModelConfig) -> "ModelSource":
        """The model that a configuration names; raises UserError for a folder without a model."""
        chat = (config.chat, config.chat_template_kwargs)
        if config.path == BUNDLED:
            return cls(str(data_dir() / "tiny_chat"), None, *chat)
        folder = Path(config.path).expanduser()
        if (folder / "config.json").is_file():
            return cls(str(folder.resolve()), None, *chat)
        if folder.exists() or looks_local(config.path):
            raise UserError(
                f"model.path: {config.path} is neither a folder with a config.json, nor '{BUNDLED}', "
                "nor a name on the Hugging Face hub (owner/name)"
            )
        return cls(config.path, config.revision, *chat)

    @property
    def name(self) -> str:
        """A short name for display."""
        return Path(self.path).name

    @property
    def is_cached(self) -> bool:
        """Whether the model's configuration is on this machine: a folder, or in the hub's cache."""
        return self.folder is not None

    @property
    def folder(self) -> Path | None:
        """The folder of its files on this machine, possibly in the hub's cache; None if there is none."""
        if Path(self.path).is_dir():
            return Path(self.path)
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.path, "config.json", revision=self.revision)
        return Path(cached).parent if isinstance(cached, str) else None

    @cached_property
    def weight_digests(self) -> dict[str, str]:
        """SHA-256 of each weight file by name, as in `files.weight_digests`; empty if there are none here."""
        folder = self.folder
        return {} if folder is None else weight_digests(folder)

    @cached_property
    def architecture(self) -> Any:
        """The transformers configuration; raises UserError if it cannot be loaded."""
        from transformers import AutoConfig

        return self._loaded(AutoConfig)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer; raises UserError if there is none."""
        from transformers import AutoTokenizer

        folder = Path(self.path)  # a name on the hub is none: what its cache lacks is downloaded
        if folder.is_dir() and not has_vocabulary(folder):
            raise UserError(
                f"model.path: {self.path} has no tokenizer (tokenizer.json, or another vocabulary): "
                f"{COPY_AGAIN}"
            )
        return self._loaded(AutoTokenizer)

    @cached_property
    def uses_template(self) -> bool:
        """Whether chats go through the chat template; else they are plain text.

        Raises UserError where `model.chat` is always and the tokenizer has no template, and for arguments of
        a template that does not read them.
        """
        template = self.tokenizer.chat_template
        if template is None and self.chat == "always":
            raise UserError(
                f"model.chat: always, but the tokenizer of {self.path} has no chat template; "
                "auto gives such a model plain text"
            )
        uses = template is not None and self.chat != "never"
        text = "" if not uses else template if isinstance(template, str) else " ".join(template.values())
        for name in self.template_kwargs:
            if name in OWN_TEMPLATE_KWARGS or not re.search(rf"\b{re.escape(name)}\b", text):
                what = f"the chat template of {self.path} does not read it"
                if name in OWN_TEMPLATE_KWARGS:
                    what = "es-ray sets it"
                elif not uses:
                    what = f"{self.path} is given plain text, without a chat template"
                raise UserError(f"model.chat_template_kwargs: {name} has no effect: {what}")
        return uses

    @property
    def note(self) -> str | None:
        """What might surprise about how the model is asked; None if nothing does."""
        if self.uses_template or self.chat == "never":
            return None
        return (
            f"{self.name} has no chat template (chat_template.jinja, or in tokenizer_config.json): it is "
            "given prompts as plain text"
        )

    def skeleton(self) -> Any:
        """The model without weights, on the meta device, for its modules' names and shapes."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(self.architecture)
        except ValueError as error:
            raise UserError(f"model.path: {self.path} is not a causal language model") from error

    @cached_property
    def parameters(self) -> int:
        """How many parameters the model has; tied ones count once."""
        return sum(parameter.numel() for parameter in self.skeleton().parameters())

    def _loaded(self, loader: Any) -> Any:
        try:
            return loader.from_pretrained(self.path, revision=self.revision)
        except Exception as error:  # a torn file raises whatever its library raises
            raise self.unusable(error) from error

    def unusable(self, error: BaseException) -> UserError:
        """What to raise where a library cannot load the model: it names the file that is torn, if one is."""
        folder = Path(self.path)
        if not folder.is_dir():
            where = " (not in the local cache, and it cannot be downloaded)"
            return UserError(f"model.path: {self.path} cannot be loaded{where}: {_first_line(error)}")
        torn = torn_file(folder)
        if torn is not None:
            what = "it is empty, cut short or damaged"
            return UserError(f"model.path: {torn} cannot be read: {what}; {COPY_AGAIN}")
        return UserError(f"model.path: {self.path} cannot be loaded: {_first_line(error)}")

    def stop_ids(self) -> frozenset[int]:
        """The token ids that end a completion: those of generation_config, else the tokenizer's."""
        from transformers import GenerationConfig

        try:
            ids = GenerationConfig.from_pretrained(self.path, revision=self.revision).eos_token_id
        except OSError as error:  # a model may lack that file
            if is_torn(Path(self.path) / "generation_config.json"):
                raise self.unusable(error) from error
            ids = None
        ids = self.architecture.eos_token_id if ids is None else ids
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a chat, up to where the answer starts; raises UserError if its template fails.

        messages: turns of {"role", "content"}. Without a template: the contents with a blank line between
        them, and the special tokens that the tokenizer itself puts around a text (often BOS alone).
        """
        if not self.uses_template:
            text = "\n\n".join(turn["content"] for turn in messages)
            return list(self.tokenizer(text)["input_ids"])
        turns = [dict(turn) for turn in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **self.template_kwargs
            )
        except Exception as error:  # the template is a program that comes with the model
            said = " ".join(str(error).split())
            raise UserError(f"model.path: the chat template of {self.path} fails: {said}") from error
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, token_ids: list[int]) -> str:
        """A completion's text, stripped and without special tokens."""
        return self.tokenizer.decode(token_ids, skip_special_tokens=True).strip()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
