"""The transformers engine: a whole shard of members in one batch, on a CPU or a GPU."""
