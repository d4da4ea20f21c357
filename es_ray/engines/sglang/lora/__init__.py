"""SGLang's LoRA memory pool and kernels, for populations."""
