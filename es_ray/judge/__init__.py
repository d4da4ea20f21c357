"""Judging what was evolved."""
