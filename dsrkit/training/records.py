"""What a training measured, on record while it goes: JSON lines for us, TensorBoard for the eye, MLflow where a server is named.

    outputs/<run>/logs/<stage>.jsonl            provenance first, then a line an epoch of every training of the stage
    outputs/<run>/tensorboard/<stage>/<title>/  tensorboard --logdir outputs     (pip install 'dsrkit[records]')
    MLFLOW_TRACKING_URI=http://…                an experiment a run, a run a training     (pip install 'dsrkit[mlflow]')

A training that goes on after a kill goes on in the same records, without an epoch twice. None of them decides anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import warnings
from typing import Any, Protocol

from dsrkit.runs import atomic_path
from dsrkit.training.resume import Progress, fingerprint
from dsrkit.training.stepper import TrainingError

Epoch = dict[str, float]


class Book(Protocol):
    """One place that keeps epochs."""

    def write(self, epoch: Epoch) -> None: ...
    def close(self) -> None: ...


class Records:
    """The books of one training. Raises TrainingError where MLflow is asked for and not installed."""

    def __init__(self, progress: Progress, title: str, begins: bool) -> None:
        self.progress = progress
        self.stage = progress.path.name.removesuffix(".state.pt")
        self.books: list[Book] = []
        if importlib.util.find_spec("tensorboard"):
            self.books.append(_TensorBoard(progress, self.stage, title, begins))
        if os.environ.get("MLFLOW_TRACKING_URI"):
            self.books.append(_MLflow(progress, self.stage, title))

    def write(self, epoch: Epoch) -> None:
        """Add an epoch that ``progress`` has been told of."""
        self._write_lines()
        for book in self.books:
            book.write(epoch)

    def _write_lines(self) -> None:
        """All epochs of the stage so far, written anew: no epoch is there twice, and none is half there."""
        states = [*self.progress.ended.values(), *([self.progress.current] if self.progress.current else [])]
        lines = [{"provenance": self.progress.origin}]
        lines += [{"title": state["title"]} | epoch for state in states for epoch in state["history"]]
        with atomic_path(self.progress.path.parent / "logs" / f"{self.stage}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def close(self) -> None:
        for book in self.books:
            book.close()


class _TensorBoard:
    def __init__(self, progress: Progress, stage: str, title: str, begins: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an optional package

        folder = progress.path.parent / "tensorboard" / stage / title.replace("/", "-")
        if begins:  # what is there is of an earlier training
            shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        if begins:
            self.writer.add_text("provenance", f"```\n{json.dumps(progress.origin, indent=1)}\n```")

    def write(self, epoch: Epoch) -> None:
        for name, value in epoch.items():
            if name != "epoch":
                self.writer.add_scalar(
                    name.replace("loss_", "loss/").replace("gradient_", "gradient/"), value, int(epoch["epoch"])
                )
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _MLflow:
    """A server that does not answer costs a warning, not the training."""

    def __init__(self, progress: Progress, stage: str, title: str) -> None:
        if not importlib.util.find_spec("mlflow"):
            raise TrainingError(
                "MLFLOW_TRACKING_URI: expected the package mlflow beside it, got none. pip install 'dsrkit[mlflow]', or unset it."
            )
        self.run = ""
        self._try(lambda client: self._open(client, progress.origin, stage, title))

    def _open(self, client: Any, origin: dict[str, Any], stage: str, title: str) -> None:
        parameters = origin["parameters"]
        experiment = client.get_experiment_by_name(parameters["run"])
        number = experiment.experiment_id if experiment else client.create_experiment(parameters["run"])
        same = hashlib.sha256(json.dumps([fingerprint(origin), stage, title], sort_keys=True).encode()).hexdigest()
        known = client.search_runs([number], f"tags.dsrkit_training = '{same}' and attributes.status = 'RUNNING'")
        if known:
            self.run = known[0].info.run_id
            return
        tags = {"dsrkit_training": same, "stage": stage, "commit": str(origin.get("commit"))}
        self.run = client.create_run(number, run_name=f"{stage}, {title}", tags=tags).info.run_id
        for name, value in parameters.items():
            client.log_param(self.run, name, value)

    def write(self, epoch: Epoch) -> None:
        if self.run:
            self._try(lambda client: self._log(client, epoch))

    def _log(self, client: Any, epoch: Epoch) -> None:
        for name, value in epoch.items():
            if name != "epoch":
                client.log_metric(self.run, name, value, step=int(epoch["epoch"]))

    def close(self) -> None:
        if self.run:
            self._try(lambda client: client.set_terminated(self.run))

    def _try(self, act: Any) -> None:
        from mlflow import MlflowClient  # an optional package
        from mlflow.exceptions import MlflowException

        try:
            act(MlflowClient())
        except (MlflowException, OSError) as error:
            self.run = ""
            warnings.warn(f"MLflow does not take this training, which goes on without it: {error}", stacklevel=2)
