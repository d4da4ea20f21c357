"""What a run shows: records, plots, the terminal."""
