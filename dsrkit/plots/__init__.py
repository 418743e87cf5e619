"""Figures. Functions take data and return a Figure; nothing here shows or saves by itself."""

from dsrkit.plots.curves import plot_cmc, plot_roc, plot_score_histograms, plot_threshold_sweep
from dsrkit.plots.faces import plot_face_strips, plot_identity_map
from dsrkit.plots.history import LivePlot, plot_history, plot_steps

__all__ = [
    "LivePlot",
    "plot_cmc",
    "plot_face_strips",
    "plot_history",
    "plot_identity_map",
    "plot_roc",
    "plot_score_histograms",
    "plot_steps",
    "plot_threshold_sweep",
]
