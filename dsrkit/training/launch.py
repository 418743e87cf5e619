"""Several processes that train one network: started from a notebook, or by ``torchrun`` around ``python -m dsrkit.training``.

From a notebook torch's elastic launcher spawns them. (accelerate's ``notebook_launcher`` forks, which fails once CUDA was
touched.) Each process opens the stage's setting for itself; the first alone writes files and answers.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dsrkit.models.checkpoint import about_file
from dsrkit.training.setting import Setting, open_setting

POLL_SECONDS = 2.0


def together() -> None:
    """Wait for the other processes, where there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def in_processes(stage: str) -> Callable:
    """Decorate a training ``(setting, on_epoch) -> result``: with ``processes`` above 1 it runs in so many, on this machine.

    ``on_epoch`` is then called in this process, from what the first one saves.
    """

    def decorate(train: Callable) -> Callable:
        @functools.wraps(train)
        def started(setting: Setting, on_epoch: Callable | None = None) -> Any:
            arguments = [] if on_epoch is None else [on_epoch]
            if setting.params.processes == 1 or "RANK" in os.environ:
                return train(setting, *arguments)
            with _Followed(setting, stage, on_epoch):
                return _launch(train, setting)

        return started

    return decorate


def _launch(train: Callable, setting: Setting) -> Any:
    processes = setting.params.processes
    if setting.device.type == "cuda" and processes > torch.cuda.device_count():
        raise ValueError(
            f"processes: expected at most {torch.cuda.device_count()}, the GPUs of this machine, got {processes}. Lower it, or "
            "set device to cpu."
        )
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, start_method="spawn",
    )  # fmt: skip
    answers = elastic_launch(config, _worker)(train.__module__, train.__name__, setting.params)
    return answers[0]


def _worker(module: str, name: str, params: Any) -> Any:
    if not torch.cuda.is_available() or params.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    answer = getattr(importlib.import_module(module), name)(open_setting(params))
    together()
    return answer if os.environ["RANK"] == "0" else None


class _Followed:
    """While it is open, calls ``on_epoch`` whenever the stage's state file holds a longer history."""

    def __init__(self, setting: Setting, stage: str, on_epoch: Callable | None) -> None:
        self.path, self.on_epoch, self.seen = about_file(setting.run.folder / f"{stage}.state.pt"), on_epoch, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            history = json.loads(self.path.read_text()).get("history", []) if self.path.is_file() else []
            if self.on_epoch is not None and len(history) > self.seen:
                self.seen = len(history)
                self.on_epoch(history)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: Any) -> None:
        self.done.set()
        self.thread.join()
