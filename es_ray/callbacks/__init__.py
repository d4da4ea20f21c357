"""Callbacks of a run: the terminal, plots; one module each."""
