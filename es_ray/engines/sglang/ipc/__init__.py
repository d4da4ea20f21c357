"""Calls from an engine's process into SGLang's scheduler process, and back."""
