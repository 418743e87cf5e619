"""Several processes that train one network: started from a notebook, or by ``torchrun`` around ``python -m dsrkit.training``.

From a notebook torch's elastic launcher spawns them. (accelerate's ``notebook_launcher`` forks, which fails once CUDA was
touched.) Each process opens the stage's setting for itself; the first alone writes files and answers.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dsrkit.training.setting import Setting, open_setting

POLL_SECONDS = 2.0


def together() -> None:
    """Wait for the other processes, where there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def in_processes(train: Callable) -> Callable:
    """Decorate a training ``(setting, on_epoch) -> result``: with ``processes`` above 1 it runs in so many, on this machine.

    ``on_epoch`` is then called in a thread of this process, with what the first of them passes.
    """

    @functools.wraps(train)
    def started(setting: Setting, on_epoch: Callable | None = None) -> Any:
        if "RANK" in os.environ:
            # they meet before the first of them writes a file, and wait for it while it validates
            PartialState(cpu=setting.device.type == "cpu", timeout=timedelta(hours=6))
        elif setting.params.processes > 1:
            with _Followed(on_epoch) as told:
                return _launch(train, setting, told)
        return train(setting) if on_epoch is None else train(setting, on_epoch)

    return started


def _launch(train: Callable, setting: Setting, told: Path) -> Any:
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
    with _handlers_kept():
        answers = elastic_launch(config, _worker)(train.__module__, train.__name__, setting.params, told)
    return answers[0]


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """The launcher puts handlers of its own in place and leaves them there: a later interrupt of the kernel, or its end, would
    come as an error of the launcher."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere neither the launcher nor anyone can set one
            for number, handler in before.items():
                if handler is not None:  # None: it was not set from Python, and cannot be
                    signal.signal(number, handler)


def _worker(module: str, name: str, params: Any, told: Path) -> Any:
    def tell(*arguments: Any) -> None:
        with open(told, "a") as stream:
            stream.write(json.dumps(arguments) + "\n")

    if not torch.cuda.is_available() or params.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    answer = getattr(importlib.import_module(module), name)(open_setting(params), tell)
    together()
    return answer if os.environ["RANK"] == "0" else None


class _Followed:
    """While it is open, calls ``on_epoch`` with each line of arguments that is appended to the file that it yields."""

    def __init__(self, on_epoch: Callable | None) -> None:
        self.on_epoch, self.seen = on_epoch, 0
        self.folder = tempfile.TemporaryDirectory(prefix="dsrkit-")
        self.path = Path(self.folder.name) / "told.jsonl"
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        finished = False
        while not finished:
            finished = self.done.wait(POLL_SECONDS)
            whole_lines = self.path.read_text().split("\n")[:-1]
            for line in whole_lines[self.seen :]:
                self.seen += 1
                if self.on_epoch is not None:
                    self.on_epoch(*json.loads(line))

    def __enter__(self) -> Path:
        self.path.touch()
        self.thread.start()
        return self.path

    def __exit__(self, *error: Any) -> None:
        self.done.set()
        self.thread.join()
        self.folder.cleanup()
