"""The report of a run: one HTML file that needs no network."""

from es_ray.judge.report.page import write_report

__all__ = ["write_report"]
