"""Why an engine did not start, or died: one line that says what to do."""

from pathlib import Path

_TAIL = 64 * 1024

_KNOWN = (
    (
        ("OutOfMemoryError", "CUDA out of memory", "out of memory"),
        "out of GPU memory; lower engine.sglang.mem_fraction_static or engine.shard",
    ),
    (
        (
            "Not enough memory",
            "no GPU memory for the KV cache",
            "increase --mem-fraction-static",
            "Raise --mem-fraction-static",
            "mem_fraction_static is too small",
        ),
        "no GPU memory left for the KV cache; raise engine.sglang.mem_fraction_static or lower engine.shard",
    ),
    (
        ("No CUDA GPUs are available", "Found no NVIDIA driver"),
        "there is no CUDA GPU; use the transformers engine",
    ),
)


def reason(text: str) -> str:
    """The cause from an engine's output: a known one with its remedy, else the last error, else ''."""
    for marks, meaning in _KNOWN:
        if any(mark in text for mark in marks):
            return meaning
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(" ")[0] or "Error: " in line]
    return (errors or lines or [""])[-1][:300]


def tail(file: Path) -> str:
    """The end of a log file; empty if there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        opened.seek(max(file.stat().st_size - _TAIL, 0))
        return opened.read().decode("utf-8", errors="replace")
