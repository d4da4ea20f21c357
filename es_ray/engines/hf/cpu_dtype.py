"""Whether a CPU multiplies in a dtype.

`model.dtype: auto` is the file's where it does, else float32; layers in a dtype that it only emulates are
multiplied in float32, weights converted as they are read.
"""

from typing import Any, Final

import torch

PRODUCTS: Final = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
"""The x86 instruction sets that have products in a dtype, as torch calls them; one suffices."""


def multiplies_in(dtype: torch.dtype) -> bool:
    """Whether this CPU does; one that does not emulates them.

    SmolLM2 (135 M parameters) in bfloat16 took 1,541 s for a generation of 960 completions on two cores with
    AVX2 alone. True where torch does not tell what the CPU can, and on processors other than x86.
    """
    tell: Any = getattr(torch.cpu, "get_capabilities", None)
    if dtype not in PRODUCTS or tell is None:
        return True
    found = tell()
    return found.get("architecture") != "x86_64" or any(found.get(name) for name in PRODUCTS[dtype])
