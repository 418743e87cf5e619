"""Training: DSR, the EdgeFace fine-tune, and the cycle between them, on one loop."""

from dsrkit.training.cycle import run_cycles
from dsrkit.training.dsr import train_dsr
from dsrkit.training.edgeface import train_edgeface
from dsrkit.training.loop import Fit, TrainingError
from dsrkit.training.setting import Setting, open_setting

__all__ = ["Fit", "Setting", "TrainingError", "open_setting", "run_cycles", "train_dsr", "train_edgeface"]
