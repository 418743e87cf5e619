"""How long one batch takes, in ONNX Runtime and in PyTorch, by turns in one process, so that a busy machine slows down both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from dsrkit.export.loader import load_onnx
from dsrkit.models.onnx import Pixels

PYTORCH = "PyTorch"
_WARM_UP = 3


def by_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each call over ``rounds`` rounds, in each of which every call has its turn; after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(_WARM_UP + rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


def latency(
    files: Mapping[str, Path], network: nn.Module, vlr: Pixels, batches: Sequence[int], threads: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Median milliseconds of a batch, bytes in to embeddings and restored faces out, for each batch size and number of threads.

    Args:
        files: exported systems by name.
        network: the same as a module (``RestoredFromBytes``): eager PyTorch, weights channels last.
        vlr: VLR faces as bytes; repeated where a batch is larger.

    Returns one row for each batch size, number of threads and side: {"batch", "threads", "side", "milliseconds", "ratio"}; the
    ratio is PyTorch's median divided by this side's: how many times faster it is.
    """
    rows = []
    for count in threads:
        systems = {name: load_onnx(path, count) for name, path in files.items()}
        for batch in batches:
            images = np.ascontiguousarray(np.resize(vlr, (batch, *vlr.shape[1:])))
            calls = {name: _onnx_call(system, images) for name, system in systems.items()}
            with torch_threads(count), torch.inference_mode():
                medians = by_turns({PYTORCH: _torch_call(network, images)} | calls, rounds)
            rows += [
                {
                    "batch": batch,
                    "threads": count,
                    "side": side,
                    "milliseconds": 1000 * median,
                    "ratio": medians[PYTORCH] / median,
                }
                for side, median in medians.items()
            ]
    return rows


def _onnx_call(system: Any, images: Pixels) -> Callable[[], object]:
    return lambda: system.session.run(None, {system.session.get_inputs()[0].name: images})


def _torch_call(network: nn.Module, images: Pixels) -> Callable[[], object]:
    tensor = torch.from_numpy(images)
    return lambda: network(tensor)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch with ``count`` threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def latency_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One line for each batch size and number of threads: milliseconds a batch, and in brackets how many times faster."""
    table = pd.DataFrame(rows)
    table["text"] = [f"{row['milliseconds']:.1f} ms (×{row['ratio']:.2f})" for row in rows]
    sides = list(dict.fromkeys(table["side"]))
    return table.pivot(index=["batch", "threads"], columns="side", values="text")[sides].rename_axis(columns=None)
