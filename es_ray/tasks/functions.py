"""Functions as tasks.

    def reward(example, completion): ...        # called for each completion
    async def reward(example, completion): ...  # likewise, many at once: for rewards that wait
    def reward(examples, completions): ...      # called for a batch, as the plural names say; may be async

Each returns a number or an `es_ray.Score`, over a batch a list of them. Further parameters are
`task.options`: `def reward(example, completion, limit=5)` takes `--set task.options.limit=3`.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.base import Example, Task

ONE, BATCH = ("example", "completion"), ("examples", "completions")
WANTED = "reward(example, completion) is wanted there, or reward(examples, completions) over a batch"
_OPTION_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class FunctionTask(Task):
    """A task whose score is what a function returns; name: the configuration's, for messages."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function, self.name = function, name

    def score(self, example: Example, completion: str) -> Any:
        """What the function returns."""
        return self.function(example, completion)


class AsyncFunctionTask(FunctionTask):
    """The same for a coroutine function."""

    async def score(self, example: Example, completion: str) -> Any:
        """What the function returns, when it does."""
        return await self.function(example, completion)


class BatchFunctionTask(FunctionTask):
    """A task whose scores are what a function returns for a batch."""

    def score(self, example: Example, completion: str) -> Any:
        """What the function returns for a batch of one."""
        return self.function([example], [completion])[0]

    def score_batch(self, examples: Sequence[Example], completions: Sequence[str]) -> Any:
        """What the function returns."""
        return self.function(examples, completions)


class AsyncBatchFunctionTask(FunctionTask):
    """The same for a coroutine function."""

    async def score(self, example: Example, completion: str) -> Any:
        """What the function returns for a batch of one, when it does."""
        return (await self.function([example], [completion]))[0]

    async def score_batch(  # type: ignore[override]  # as Task says of coroutine functions
        self, examples: Sequence[Example], completions: Sequence[str]
    ) -> Any:
        """What the function returns, when it does."""
        return await self.function(examples, completions)


def function_task(key: str, name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Task:
    """The task that a function is, with its options bound.

    key: the configuration's, for messages. Raises UserError for a function of another signature, and for
    options that it does not take.
    """
    signature = _signature(function)
    if signature is None:
        raise UserError(f"{key}: {name} has no signature that Python can tell; {WANTED}")
    names = tuple(signature.parameters)[:2]
    plain = tuple(parameter.lstrip("_") for parameter in names)  # `_example` is one that is not used
    firsts = [signature.parameters[each] for each in names]
    positional = all(first.kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD for first in firsts)
    if plain not in (ONE, BATCH) or not positional:
        raise UserError(f"{key}: {name} is {_shown(function, signature)}; {WANTED}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UserError(f"{key}: {name} yields; a reward returns its score")
    _check(name, _shown(function, signature), list(signature.parameters.values())[2:], options)
    kinds: dict[tuple[bool, bool], type[FunctionTask]] = {
        (False, False): FunctionTask,
        (False, True): AsyncFunctionTask,
        (True, False): BatchFunctionTask,
        (True, True): AsyncBatchFunctionTask,
    }
    call = getattr(function, "__call__", None)  # noqa: B004 - of an object, to be looked into
    waits = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    bound = functools.partial(function, **options) if options else function
    return kinds[plain == BATCH, waits](bound, name)


def check_options(name: str, kind: type[Task], options: Mapping[str, Any]) -> None:
    """Raise UserError for options that a class's constructor does not take, and for those that it needs."""
    signature = _signature(kind) if kind.__init__ is not object.__init__ else inspect.Signature()
    if signature is not None:
        _check(name, f"{kind.__name__}{signature}", list(signature.parameters.values()), options)


def check_passed_on(
    name: str, kind: type[Task], options: Mapping[str, Any], error: BaseException | None
) -> None:
    """Raise UserError if a constructor passed an option on to a base class's, which has no such option.

    error: what the constructor raised. The same error of any other call is the task's own, and left alone.
    """
    refused = re.search(r"(\S+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or refused is None or refused[2] not in options:
        return
    takes: dict[str, None] = {}
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is None or (signature := _signature(init)) is None:
            continue
        parameters = list(signature.parameters.values())[1:]  # without self
        takes |= {each.name: None for each in parameters if each.kind in _OPTION_KINDS}
        if getattr(init, "__qualname__", None) == refused[1]:
            break
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            return  # it passes no option on that it does not name
    else:
        return
    if refused[2] not in takes:
        raise UserError(_no_such_option(name, refused[2], list(takes))) from error


def _no_such_option(name: str, option: str, takes: Sequence[str]) -> str:
    allowed = f"it takes {', '.join(takes)}" if takes else "it takes none"
    return f"task.options.{option}: {name} has no such option; {allowed}"


def _check(
    name: str, shown: str, parameters: Sequence[inspect.Parameter], options: Mapping[str, Any]
) -> None:
    takes = [parameter.name for parameter in parameters if parameter.kind in _OPTION_KINDS]
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option not in takes and not anything:
            raise UserError(_no_such_option(name, option, takes))
    for parameter in parameters:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and needed:
            raise UserError(f"task.name: {name} is {shown}: {parameter.name} cannot be given by its name")
        if parameter.kind in _OPTION_KINDS and needed and parameter.name not in options:
            raise UserError(
                f"task.options.{parameter.name}: {name} is {shown} and needs it; "
                f"set it with --set task.options.{parameter.name}=..."
            )


def _signature(found: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):  # of some builtins
        return None


def _shown(function: Callable[..., Any], signature: inspect.Signature) -> str:
    names = [
        str(parameter).partition(":")[0].partition(" ")[0] for parameter in signature.parameters.values()
    ]
    return f"{getattr(function, '__name__', type(function).__name__)}({', '.join(names)})"
