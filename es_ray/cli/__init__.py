"""The commands of `es-ray`: they parse, call and print."""
