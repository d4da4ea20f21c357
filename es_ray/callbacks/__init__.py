"""What listens to a run: the terminal, plots; one module each."""
