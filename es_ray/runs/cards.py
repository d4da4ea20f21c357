"""The model cards of adapters, as Markdown below the front matter."""

import json
from collections.abc import Mapping
from typing import Any

ONLY_B = (
    "\nOnly its B was evolved: A is random and fixed, the same in all adapters of the run (lora.form b).\n"
)


def loading_code(base: str, dtype: str | None, adapter: str = "path/of/this/folder") -> str:
    """Python that loads an adapter with PEFT; the arguments as for `how_to_load`."""
    folder = json.dumps(adapter, ensure_ascii=False)
    return f"""import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained({folder}, dtype=torch.{dtype or "float32"})
tokenizer = AutoTokenizer.from_pretrained({base!r})"""


def model_code(folder: str, dtype: str | None) -> str:
    """Python that loads a whole model that was exported."""
    name = json.dumps(folder, ensure_ascii=False)
    return f"""import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({name}, dtype=torch.{dtype or "float32"})
tokenizer = AutoTokenizer.from_pretrained({name})"""


def how_to_load(base: str, dtype: str | None, form: str = "both") -> str:
    """The end of each card.

    base: the base model's folder or name; dtype: of the recorded answers; form: `lora.form`.
    """
    evolved = ONLY_B if form == "b" else ""
    recorded = (
        f"Its recorded answers were made in {dtype}. In another dtype near ties between tokens may be broken "
        "differently, and greedy answers with them."
        if dtype is not None
        else "Load it in the dtype of its recorded answers: in another one greedy answers may differ."
    )
    return f"""{evolved}
Load it with PEFT; the tokenizer, with its chat template, is the base model's:

```python
{loading_code(base, dtype)}
```

{recorded}

Evolved with es-ray: Evolution Strategies through LoRA (arXiv 2509.24372).
"""


def centre_card(metrics: Mapping[str, Any], ending: str) -> str:
    """The card of `adapter/`: the centre after the generation's update."""
    return (
        f"\n# The centre after generation {metrics['generation']}\n\n"
        f"The members it was updated from had rewards of {metrics['reward_mean']:.2f} on average, "
        f"{metrics['reward_worst']:.2f} to {metrics['reward_best']:.2f}; the centre before the update had "
        f"{metrics['centre_reward']:.2f} on the training prompts.\n{ending}"
    )


def best_card(metrics: Mapping[str, Any], ending: str) -> str:
    """The card of `best/`: the member with the highest training reward."""
    return (
        f"\n# Member {metrics['best_index']} of generation {metrics['generation']}\n\n"
        f"The best of its generation: reward {metrics['reward_best']:.2f} on the training prompts, where the "
        f"population had {metrics['reward_mean']:.2f} on average.\n{ending}"
    )


def rebuilt_card(name: str, ending: str, note: str | None = None) -> str:
    """The card of an adapter that `es-ray member` rebuilt; note: `PastRun.rebuilt_note`."""
    suffix = "" if note is None else f"; {note}"
    return (
        f"\n# {name[0].upper()}{name[1:]}\n\n"
        f"Rebuilt from the run's seed and recorded advantages{suffix}.\n{ending}"
    )
