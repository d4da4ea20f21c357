"""Evaluation of what was evolved."""
