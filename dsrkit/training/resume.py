"""Going on exactly where a killed training stood.

A stage keeps one file, ``<stage>.state.pt``, beside its results: what the trainings within it that ended left behind, and
everything that the next step of the present one depends on. It is written atomically, read with ``weights_only=True``,
and used only for the very same parameters, data and input files.
"""

from __future__ import annotations

import copy
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsrkit.models.checkpoint import CheckpointError, keep_previous, load_checkpoint, previous, save_checkpoint
from dsrkit.runs import is_main
from dsrkit.training.stepper import TrainingError

VERSION = 1  # of the file's layout
# Parameters that change nothing in what is learned, or rounding alone.
_NEUTRAL = {"resume", "checkpoint_minutes", "device", "processes", "accumulate", "compile", "dry_run"}


@dataclass
class Progress:
    """A stage's state file. ``open_progress`` makes one.

    Args:
        path: the file.
        origin: provenance of the stage: parameters and the SHA-256 of every input; only a state of the same may go on.
        minutes: how often a running training is saved, besides the end of each epoch.
        resumed: whether an unfinished training was found, or this one has begun.
        results: what the stage is about to replace.
        interrupted: whether a training of other parameters was found unfinished.
        finishes: whether ``finish`` closes the state; else the next to come takes it as it stands.
    """

    path: Path
    origin: dict[str, Any]
    minutes: float
    resumed: bool = False
    ended: dict[str, Any] = field(default_factory=dict)
    current: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    saved_at: float = field(default_factory=time.monotonic)
    results: tuple[Path, ...] = ()
    interrupted: bool = False
    finishes: bool = True

    def begin(self) -> None:
        """Set aside what the stage is about to replace, once, when its first result is there to be written.

        Results of a training that was interrupted do not take the place of finished ones that are kept already.
        """
        if self.resumed or not is_main():
            return
        if self.interrupted:
            keep_previous(self.path)
        for result in self.results:
            if self.interrupted and previous(result).exists():
                result.unlink(missing_ok=True)
            else:
                keep_previous(result)
        self.resumed = True
        self._write(finished=False)

    def of(self, title: str) -> dict[str, Any] | None:
        """What is known of the training ``title``: where it stands, or how it ended; None when it has not begun."""
        return self.ended.get(title) or (self.current if self.current.get("title") == title else None)

    def due(self) -> bool:
        """Whether it is time to save within an epoch."""
        return time.monotonic() - self.saved_at >= 60 * self.minutes

    def save(self, state: dict[str, Any]) -> None:
        """Keep where a training stands; one that says how it ended is kept until the stage is done."""
        if state["ended"]:
            weights = copy.deepcopy(state["stepper"]["trained"])  # the next training may go on with the same tensors
            ended = state | {"stepper": {"trained": weights}}  # all that is needed of a training that ended
            self.ended, self.current = self.ended | {state["title"]: ended}, {}
        else:
            self.current = state
        self._write(finished=False)
        self.saved_at = time.monotonic()

    def note(self, title: str, value: dict[str, Any]) -> None:
        """Keep something that the stage found out between two trainings."""
        self.notes = self.notes | {title: value}
        self._write(finished=False)

    def finish(self) -> None:
        """The stage is done: the last state is kept to look at, and is not gone on from."""
        if is_main() and self.finishes:
            self._write(finished=True)

    def _write(self, finished: bool) -> None:
        history = (self.current or (list(self.ended.values()) or [{}])[-1]).get("history", [])
        content = {
            "version": VERSION,
            "finished": finished,
            "origin": fingerprint(self.origin),
            "history": history,
            "training_state_dict": {"ended": self.ended, "current": self.current, "notes": self.notes},
        }
        save_checkpoint(self.path, "training", content)


def fingerprint(origin: dict[str, Any]) -> dict[str, Any]:
    """Of a provenance, what decides the result: parameters and input files."""
    parameters = {name: value for name, value in origin["parameters"].items() if name not in _NEUTRAL}
    return {"parameters": parameters, "inputs": {role: file["sha256"] for role, file in origin["inputs"].items()}}


def open_progress(path: Path, origin: dict[str, Any], resume: str, minutes: float, results: list[Path]) -> Progress:
    """The state of a stage: found, or new. Nothing on disk changes before ``Progress.begin``.

    Args:
        resume: "auto" goes on where the same training was interrupted and else begins; "never" begins; "must" goes on.
        results: checkpoints that the stage is about to replace.

    Raises TrainingError for "must" without a state that fits, and for a state that cannot be read.
    """
    found = _read(path, forgiving=resume == "never")
    refusal = "there is none" if found is None else "resume is never" if resume == "never" else _refusal(found, origin)
    if found is not None and not refusal:
        state = found["training_state_dict"]
        where = state["current"] or {"title": "the start", "epoch": 0, "step": 0}
        if is_main():
            print(f"going on from {path.name}: {where['title']}, epoch {where['epoch']}, step {where['step']}", flush=True)
        return Progress(path, origin, minutes, True, state["ended"], state["current"], state["notes"])
    if resume == "must":
        raise TrainingError(
            f"resume: expected an interrupted training of these parameters at {path}, got none that fits: {refusal}. "
            "Set resume to auto to begin anew."
        )
    interrupted = found is not None and not found.get("finished", False)
    if interrupted and is_main():
        print(f"not going on from {path.name}: {refusal}. It is kept as {previous(path).name}; training begins anew.", flush=True)
    return Progress(path, origin, minutes, results=tuple(results), interrupted=interrupted)


def _read(path: Path, forgiving: bool) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = load_checkpoint(path, "training")
    except CheckpointError as error:
        if forgiving:
            return None
        raise TrainingError(f"resume: {error} Remove the file, or set resume to never, to begin anew.") from error
    if found.get("version") != VERSION and not forgiving:
        raise TrainingError(
            f"{path}: expected a training state of version {VERSION}, got {found.get('version')}, written by another dsrkit. "
            "Use that one, remove the file, or set resume to never."
        )
    return found


def _refusal(found: dict[str, Any], origin: dict[str, Any]) -> str:
    if found["finished"]:
        return "that training was finished"
    wanted, have = fingerprint(origin), found["origin"]
    changes = [
        f"{name} was {have[group].get(name)!r} and is {wanted[group].get(name)!r}"
        for group in ("parameters", "inputs")
        for name in sorted(wanted[group].keys() | have[group].keys())
        if wanted[group].get(name) != have[group].get(name)
    ]
    return "; ".join(changes)


def generator_states() -> dict[str, Any]:
    """The state of every global generator, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Set every global generator to what ``generator_states`` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available():  # perhaps with fewer devices than where the states come from
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
