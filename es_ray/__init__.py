"""es-ray: Evolution Strategies fine-tuning of language models through LoRA.

    import es_ray

    result = es_ray.run(es_ray.load(preset="tiny-chat"))
    print(result.path, result.test_results["centre"]["reward"])

The public API is what `__all__` names: it stays as it is within a major version, everything else may move.
Names are loaded when they are first used, so that `import es_ray` stays cheap.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_ray.callbacks.base import Callback, RunInfo
    from es_ray.callbacks.console import TerminalConsole
    from es_ray.config import Config, load
    from es_ray.driver import RunResult, run
    from es_ray.errors import RunError, UserError
    from es_ray.exporting.export import export
    from es_ray.judge.compare import compare
    from es_ray.judge.comparison import Comparison
    from es_ray.judge.evaluation import Evaluation, evaluate
    from es_ray.tasks.base import Example, Score, Task

try:
    __version__ = version("es-ray")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Callback", "Comparison", "Config", "Evaluation", "Example", "RunError", "RunInfo", "RunResult", "Score",
    "Task", "TerminalConsole", "UserError", "__version__", "compare", "evaluate", "export", "load", "run",
]  # fmt: skip

_MODULES = {
    "Callback": "es_ray.callbacks.base",
    "Comparison": "es_ray.judge.comparison",
    "Config": "es_ray.config",
    "Evaluation": "es_ray.judge.evaluation",
    "Example": "es_ray.tasks.base",
    "RunError": "es_ray.errors",
    "RunInfo": "es_ray.callbacks.base",
    "RunResult": "es_ray.driver",
    "Score": "es_ray.tasks.base",
    "Task": "es_ray.tasks.base",
    "TerminalConsole": "es_ray.callbacks.console",
    "UserError": "es_ray.errors",
    "compare": "es_ray.judge.compare",
    "evaluate": "es_ray.judge.evaluation",
    "export": "es_ray.exporting.export",
    "load": "es_ray.config",
    "run": "es_ray.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'es_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__doc__"]
