"""LoRA adapters as a flat vector: layout, scales and initial values, PEFT files."""
