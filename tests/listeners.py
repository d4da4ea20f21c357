"""A callback made of functions, for tests that disturb a run at a certain moment."""

from collections.abc import Callable

from es_ray import Callback


def listening(**methods: Callable[..., object]) -> Callback:
    """A callback whose methods of these names are these functions."""
    listener = Callback()
    for name, function in methods.items():
        assert callable(getattr(listener, name)), f"a callback has no {name}"
        setattr(listener, name, function)
    return listener
