"""DSR (restoration) and EdgeFace (recognition), and their checkpoints."""

from dsrkit.models.checkpoint import CheckpointError
from dsrkit.models.dsr import DSR, DSRConfig, load_dsr
from dsrkit.models.edgeface import EdgeFace, edgeface_file, licence, load_edgeface
from dsrkit.models.guided import Guided

__all__ = ["DSR", "CheckpointError", "DSRConfig", "EdgeFace", "Guided", "edgeface_file", "licence", "load_dsr", "load_edgeface"]
