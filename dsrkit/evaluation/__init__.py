"""Protocols, confidence intervals, and the page and file that an evaluation leaves."""

from dsrkit.bootstrap import bootstrap_difference, bootstrap_interval
from dsrkit.evaluation.all_pairs import all_pairs_verification
from dsrkit.evaluation.headline import control_sentence, headline_markdown, headline_table
from dsrkit.evaluation.open_set import (
    gallery_split,
    identification,
    open_set_curve,
    threshold_at_fpir,
    threshold_sweep,
)
from dsrkit.evaluation.page import export_html
from dsrkit.evaluation.protocols import verification
from dsrkit.evaluation.report import evaluation_row, read_metrics, write_metrics

__all__ = [
    "all_pairs_verification",
    "bootstrap_difference",
    "bootstrap_interval",
    "control_sentence",
    "evaluation_row",
    "export_html",
    "gallery_split",
    "headline_markdown",
    "headline_table",
    "identification",
    "open_set_curve",
    "read_metrics",
    "threshold_at_fpir",
    "threshold_sweep",
    "verification",
    "write_metrics",
]
