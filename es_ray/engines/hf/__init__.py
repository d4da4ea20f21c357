"""The transformers engine: a shard of members in one batch, on a CPU or a GPU."""
