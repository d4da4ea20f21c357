"""PEFT adapters on disk: what `peft.PeftModel.from_pretrained` and serving engines load."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from es_ray.lora.layout import LoraLayout

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterWriter:
    """Writes flat vectors as PEFT adapters of one base model.

    base: for `base_model_name_or_path`, so that it loads without further arguments; revision: of a hub model.
    """

    layout: LoraLayout
    base: str
    revision: str | None = None

    def write(self, theta: NDArray[np.float32], folder: Path, card: str) -> None:
        """Write adapter_model.safetensors (float32), adapter_config.json and README.md into a folder.

        theta: shape [P]; card: the model card's text below its front matter.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in self.layout.matrices(theta).items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a)
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(self._config(), indent=2, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(self._front_matter() + card, encoding="utf-8")

    def _config(self) -> dict[str, object]:
        from peft import LoraConfig

        config = LoraConfig(
            r=self.layout.rank,
            lora_alpha=self.layout.alpha,  # annotated as an int in PEFT, but only divided by the rank
            target_modules=sorted({m.name.rsplit(".", 1)[-1] for m in self.layout.modules}),
            layers_to_transform=self.layout.layers,
            layers_pattern=self.layout.stack,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.base,
            revision=self.revision,
            inference_mode=True,
        )
        # JSON has no sets, and their order would change from process to process
        return {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}

    def _front_matter(self) -> str:
        return (
            f"---\nbase_model: {json.dumps(self.base)}\nlibrary_name: peft\npipeline_tag: text-generation\n"
            "tags: [lora, evolution-strategies, es-ray]\n---\n"
        )
