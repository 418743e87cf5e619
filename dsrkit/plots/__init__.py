"""Figures. Functions take data and return a Figure; nothing here shows it, and only ``save_figure`` writes it."""

from dsrkit.plots.bands import cmc_band, roc_band
from dsrkit.plots.curves import plot_cmc, plot_det, plot_roc
from dsrkit.plots.embedding_map import map_embeddings, plot_embedding_map
from dsrkit.plots.faces import plot_face_strips, plot_identity_map
from dsrkit.plots.files import save_figure
from dsrkit.plots.history import LivePlot, plot_history, plot_steps
from dsrkit.plots.scores import plot_reliability, plot_score_histograms, plot_threshold_sweep
from dsrkit.plots.selection import choose_faces, choose_subjects, strip_rule

__all__ = [
    "LivePlot",
    "choose_faces",
    "choose_subjects",
    "cmc_band",
    "map_embeddings",
    "plot_cmc",
    "plot_det",
    "plot_embedding_map",
    "plot_face_strips",
    "plot_history",
    "plot_identity_map",
    "plot_reliability",
    "plot_roc",
    "plot_score_histograms",
    "plot_steps",
    "plot_threshold_sweep",
    "roc_band",
    "save_figure",
    "strip_rule",
]
