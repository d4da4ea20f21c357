"""Callbacks of a run: the terminal, plots, trackers; one module each."""
