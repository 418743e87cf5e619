"""The shapes that stand in signatures are so: beartype checks every one of them while other tests run."""

import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PACKAGES = ",".join(f"dsrkit.{name}" for name in ("data", "models", "losses", "metrics", "training", "recognition"))
FILES = ("data", "sources", "align", "degrade", "faces", "migration", "augment", "losses", "recognition", "training", "cycle")
SOME = "two_cycles or teacher_s_command or documented_checkpoint"  # of the long trainings
ELSEWHERE = "killed_at_any_instant or without_a_guard"  # scripts, in processes where nothing is checked
CHOSEN = f"not (test_training or test_cycle or {ELSEWHERE}) or {SOME}"


@pytest.mark.slow
def test_shapes_in_signatures_hold():
    """In a process of its own, because imports are checked; tests that hand over wrong shapes on purpose are left out."""
    files = [f"tests/test_{name}.py" for name in FILES]
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--jaxtyping-packages={PACKAGES},typechecks.checked",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DSRKIT_", "COV_"))}
    environment["PYTHONPATH"] = str(REPOSITORY / "tests")
    ran = subprocess.run(
        [*words, "-k", f"not refuse and ({CHOSEN})", *files],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) > 120
