"""Large galleries: embeddings with names, on disk, searched exactly or through a FAISS index.

models = made_by("outputs/vlr16/edgeface.pt", "outputs/vlr16/dsr.pt")
gallery = Gallery.create("people.gallery", models)
gallery.enroll(embeddings, names)                     # [N, 512] as dsrkit.recognition.embed makes them, and N texts
gallery.identify(probes, threshold=0.35)              # identity or "unknown", score, nearest, runner_up
"""

from dsrkit.gallery.checks import made_by
from dsrkit.gallery.files import GalleryError
from dsrkit.gallery.recall import measure_recall
from dsrkit.gallery.search import Found
from dsrkit.gallery.store import Gallery

__all__ = ["Found", "Gallery", "GalleryError", "made_by", "measure_recall"]
