"""A training stage without a notebook, for ``torchrun`` and clusters.

    torchrun --nproc-per-node 2 -m dsrkit.training 02_dsr_training params/vlr32/02_dsr_training.yaml

leaves the checkpoints, and a state from which the stage's notebook, run with the same parameters, takes over without
training: it shows the curves, the faces and the steps.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from dsrkit.params import STAGES, Teacher
from dsrkit.training import open_setting, run_cycles, train_dsr, train_edgeface
from dsrkit.training.launch import together

TRAININGS = {"02_dsr_training": train_dsr, "03_edgeface_finetune": train_edgeface, "04_cyclic_cycle": run_cycles}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dsrkit.training", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=TRAININGS)
    parser.add_argument("params", help="YAML file of the stage's parameters")
    options = parser.parse_args()
    params = STAGES[options.stage].read(options.params)
    assert isinstance(params, Teacher)
    TRAININGS[options.stage](replace(open_setting(params), finishes=False))
    together()


if __name__ == "__main__":
    main()
