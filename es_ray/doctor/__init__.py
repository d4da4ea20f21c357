"""Finds what would break a run, on this machine and on every node of a cluster."""
