"""``python -m dsrkit.batch RUN … [--until STAGE] [-n] [--profile slurm] [SNAKEMAKE OPTIONS]``: stages of runs, then a table.

Several runs that have all come to their end are compared, too (``06_comparison``).
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from dsrkit.batch.stages import only_plans, stages_of, trained_by, with_runs_they_need
from dsrkit.batch.summary import summary_table
from dsrkit.params import STAGES
from dsrkit.runs import ROOT, Run

SNAKEFILE = Path("workflow/Snakefile")


def check(runs: Sequence[str], until: str, comparison: str = "") -> None:
    """Raises ValueError for a run or stage that is not there and for a comparison that is called as a run is,
    FileNotFoundError for a run without a stage's parameters."""
    known = sorted(folder.name for folder in (ROOT / "params").iterdir() if folder.is_dir())
    for name, among, what in [*((run, known, "run") for run in runs), *([(until, list(STAGES), "stage")] if until else [])]:
        if name not in among:
            near = difflib.get_close_matches(name, among, n=1, cutoff=0)
            raise ValueError(f"Expected a {what} among {', '.join(among)}, got {name!r}. Did you mean {near[0]!r}?")
    if comparison in known:
        raise ValueError(f"comparison: expected a name that no run has, got {comparison!r}. Choose another.")
    for run in runs:
        if (of := trained_by(run)) not in known:
            raise ValueError(f"of_run in params/{run}/05_evaluation.yaml: expected a run among {', '.join(known)}, got {of!r}.")
        if only_plans(run):
            raise ValueError(
                f"dry_run in params/{run}/04_cyclic_cycle.yaml: expected false in a batch, which goes on from what a cycle "
                "leaves, got true. Set it to false; papermill with -p dry_run True shows the plan."
            )
        for stage in stages_of(run):
            file = ROOT / "params" / run / f"{stage}.yaml"
            if not file.is_file():
                raise FileNotFoundError(f"Expected parameters at {file}, got nothing there. Copy another run's and change them.")


def lock(runs: Sequence[str], held: ExitStack) -> None:
    """Keep a second batch out of these runs. Raises RuntimeError where one is at work; the lock ends with the process."""
    for run in runs:
        folder = Run(run).folder
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(FileLock(folder / ".batch.lock").acquire(timeout=0))
        except Timeout as error:
            raise RuntimeError(f"{folder}: expected to be alone, got another batch at work. Wait for it, or end it.") from error


def snakemake_words(options: argparse.Namespace, runs: Sequence[str], extra: Sequence[str]) -> list[str]:
    """The command that runs the graph: here, as many stages side by side as there are GPUs; or as a profile says."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(ROOT), "--nolock"]
    words += ["--config", f"runs={' '.join(runs)}", f"comparison={options.comparison}"]
    words += [f"library={'no' if options.ignore_library else 'yes'}"]
    if options.profile:
        words += ["--workflow-profile", f"workflow/profiles/{options.profile}"]
    else:
        gpus = torch.cuda.device_count()
        side_by_side = options.parallel or max(1, gpus)
        words += [f"parallel={side_by_side}", f"gpus={gpus}", "--resources", f"gpu={max(gpus, side_by_side)}"]
    words += ["--until", options.until[3:]] if options.until else []
    return [*words, *(["--dry-run"] if options.dry_run else []), *extra]


def execute(words: Sequence[str]) -> int:
    """Run Snakemake; an interrupt goes to it, it ends its jobs, and their notebooks keep what they have."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # its jobs run in this environment too
    job: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        if job:
            job.terminate()

    # an interrupt reaches Snakemake by itself, with the whole group; a termination reaches this process alone
    before = {number: signal.signal(number, act) for number, act in ((signal.SIGINT, lambda *_: None), (signal.SIGTERM, stop))}
    try:
        job = subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PATH": path})
        return job.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dsrkit.batch", description="All stages of runs, skipping what is done.")
    parser.add_argument("runs", nargs="+", help="folders of params/")
    parser.add_argument("--until", default="", metavar="STAGE", help="the last stage to run, such as 02_dsr_training")
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would run, and why")
    parser.add_argument("--parallel", type=int, default=0, help="stages side by side; default: one a GPU, or one")
    parser.add_argument("--ignore-library", action="store_true", help="changed library code runs nothing again")
    parser.add_argument("--comparison", default="comparison", metavar="NAME", help="several runs side by side: outputs/NAME")
    parser.add_argument("--profile", default="", help="where to run: a folder of workflow/profiles, such as slurm; default: here")
    options, extra = parser.parse_known_args()
    if importlib.util.find_spec("snakemake") is None:
        sys.exit("Expected Snakemake, got none. pip install 'dsrkit[batch]', or run stage by stage: make run RUN=… STAGE=…")
    runs = list(dict.fromkeys(options.runs))
    with ExitStack() as held:
        try:
            check(runs, "", options.comparison)
            every = with_runs_they_need(runs)
            check(every, options.until)
            folders = [*every, *([options.comparison] if len(runs) > 1 else [])]
            lock(folders if not options.dry_run else [], held)
        except (ValueError, OSError, RuntimeError) as error:
            sys.exit(f"{type(error).__name__}: {error}")
        status = execute(snakemake_words(options, runs, [word for word in extra if word != "--"]))
    if not options.dry_run:
        print(f"\n{summary_table(every).to_string()}")
        if len(runs) > 1 and not status and not options.until:
            print(f"\nSide by side: {Run(options.comparison).folder / '06_comparison.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
