"""Parameters of every stage, checked by name and by type.

The defaults stand in the notebooks (their ``parameters`` cell), the values of a run in ``params/<run>/<stage>.yaml``;
here stands what each may be. papermill lets a misspelt name pass with a warning and hands ``1e-4`` over as text, so the
first cell after the parameters builds the stage's settings from them, and a wrong one stops the run.
"""

from __future__ import annotations

from dsrkit.params.data import DataMigration
from dsrkit.params.evaluation import Comparison, Evaluation
from dsrkit.params.settings import ParameterError, Settings, Stage
from dsrkit.params.training import CyclicCycle, DSRLosses, DSRTraining, EdgeFaceFinetune, EdgeFaceLosses, Teacher

__all__ = [
    "STAGES",
    "Comparison",
    "CyclicCycle",
    "DSRLosses",
    "DSRTraining",
    "DataMigration",
    "EdgeFaceFinetune",
    "EdgeFaceLosses",
    "Evaluation",
    "ParameterError",
    "Settings",
    "Stage",
    "Teacher",
]

STAGES: dict[str, type[Stage]] = {
    "01_data_migration": DataMigration,
    "02_dsr_training": DSRTraining,
    "03_edgeface_finetune": EdgeFaceFinetune,
    "04_cyclic_cycle": CyclicCycle,
    "05_evaluation": Evaluation,
}
