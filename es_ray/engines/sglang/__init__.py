"""The SGLang engine: a population in the LoRA memory pool of one serving engine, written in place.

SGLang is imported in functions only, so that everything here can be imported, and in part tested, without it.
"""
