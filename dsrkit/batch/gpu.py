"""A GPU for a job: ``python -m dsrkit.batch.gpu 1 papermill …`` runs a command with a free one in ``CUDA_VISIBLE_DEVICES``.

Snakemake counts GPUs and starts no more jobs than there are, but does not say which job gets which. A lock file a GPU does;
the operating system opens it when the job ends, however it ends.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from filelock import FileLock, Timeout

_WAIT_SECONDS = 1.0


def visible_gpus() -> list[str]:
    """What this process may use, as ``CUDA_VISIBLE_DEVICES`` names it: a scheduler may have given it some of the machine's."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def take(gpus: Sequence[str], count: int, locks: Path, held: ExitStack) -> list[str] | None:
    """Lock ``count`` free ones until ``held`` closes; None, and none locked, where fewer are free."""
    with ExitStack() as tried:
        taken: list[str] = []
        for gpu in gpus:
            if len(taken) < count:
                try:
                    tried.enter_context(FileLock(locks / f"{gpu}.lock").acquire(timeout=0))
                except Timeout:
                    continue
                taken.append(gpu)
        if len(taken) < count:
            return None
        held.push(tried.pop_all())
        return taken


def run_on_gpus(count: int, command: Sequence[str]) -> int:
    """Wait for ``count`` GPUs, run the command on them, and return its exit status. Without any GPU it runs at once, on the CPU.

    Raises ValueError where there are fewer GPUs than that.
    """
    gpus = visible_gpus()
    # in a job of a cluster's the GPUs are this job's alone, and every such job may call its own "0": no lock would do
    if not gpus or not count or "SLURM_JOB_ID" in os.environ or "KUBERNETES_SERVICE_HOST" in os.environ:
        return subprocess.run(command, check=False).returncode
    if len(gpus) < count:
        raise ValueError(f"processes: expected at most {len(gpus)}, the number of GPUs here, got {count}. Lower it.")
    locks = Path(tempfile.gettempdir()) / f"dsrkit-gpus-{getpass.getuser()}"
    locks.mkdir(exist_ok=True)
    with ExitStack() as held:
        while (taken := take(gpus, count, locks, held)) is None:
            time.sleep(_WAIT_SECONDS)
        return subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(taken)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_on_gpus(int(sys.argv[1]), sys.argv[2:]))
