"""The model cards of adapters: what they are, as Markdown below the front matter."""

from collections.abc import Mapping
from typing import Any

_LOAD = """
Load it with PEFT:

```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("path/of/this/folder")
```

Evolved with es-ray: Evolution Strategies through LoRA (arXiv 2509.24372).
"""


def centre_card(metrics: Mapping[str, Any]) -> str:
    """The card of `adapter/`: the centre after the generation's update."""
    return (
        f"\n# The centre after generation {metrics['generation']}\n\n"
        f"The members it was updated from had rewards of {metrics['reward_mean']:.2f} on average, "
        f"{metrics['reward_worst']:.2f} to {metrics['reward_best']:.2f}; the centre before the update had "
        f"{metrics['centre_reward']:.2f} on the training prompts.\n{_LOAD}"
    )


def best_card(metrics: Mapping[str, Any]) -> str:
    """The card of `best/`: the member with the highest training reward."""
    return (
        f"\n# Member {metrics['best_index']} of generation {metrics['generation']}\n\n"
        f"The best of its generation: reward {metrics['reward_best']:.2f} on the training prompts, where the "
        f"population had {metrics['reward_mean']:.2f} on average.\n{_LOAD}"
    )


def rebuilt_card(name: str) -> str:
    """The card of an adapter that `es-ray member` rebuilt."""
    return f"\n# {name[0].upper()}{name[1:]}\n\nRebuilt from the run's seed and recorded advantages.\n{_LOAD}"
