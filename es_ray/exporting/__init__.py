"""A past run's adapter, or the base model with it merged in, as a folder for others, with a card."""
