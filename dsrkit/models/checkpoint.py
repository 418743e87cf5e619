"""Checkpoints: one writer, one reader. Weights are data, never code.

A checkpoint is a dictionary of tensors and plain values, written to a temporary name and renamed (as timm does), with a
readable JSON of everything but the tensors beside it (as nanochat does). It is read with ``weights_only=True``: a file
that would run code when unpickled is refused.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsrkit.runs import atomic_path


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: says what was expected, what was found, and what to do."""


def save_checkpoint(path: Path, kind: str, content: dict[str, Any]) -> None:
    """Write ``content`` (tensors and plain values) atomically, and ``<path>.json`` beside it without the tensors.

    Raises OSError when it cannot be written; what stood there before stays whole.
    """
    path = Path(path)
    readable = {"kind": kind} | {key: value for key, value in content.items() if not key.endswith("state_dict")}
    try:
        with atomic_path(path) as temporary:
            torch.save({"kind": kind, **content}, temporary)
        _write_about(path, readable)
    except (OSError, RuntimeError) as error:  # on a full disk torch's writer raises RuntimeError
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path}: expected to write it, got {type(error).__name__}: {error}, with {free:,.0f} MB free. What was saved before "
            "is whole. Make room, then run the same again."
        ) from error


def about_file(path: Path) -> Path:
    """The readable JSON beside a checkpoint: ``dsr.pt.json``."""
    return path.with_suffix(path.suffix + ".json")


def _write_about(path: Path, about: dict[str, Any]) -> None:
    with atomic_path(about_file(path)) as temporary:
        temporary.write_text(json.dumps(about, indent=1, default=str))


def read_about(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without its tensors; empty where it has no JSON beside it."""
    return json.loads(about_file(path).read_text()) if about_file(path).is_file() else {}


def previous(path: Path) -> Path:
    """Where ``keep_previous`` puts a checkpoint: ``dsr.pt`` → ``dsr.previous.pt``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def refused(path: Path) -> Path:
    """Where the networks of a refused step stay: ``dsr_cycle1.pt`` → ``dsr_cycle1.refused.pt``."""
    return path.with_name(f"{path.stem}.refused{path.suffix}")


def keep_previous(path: Path) -> None:
    """Rename a checkpoint that a new training is about to replace: ``dsr.pt`` → ``dsr.previous.pt``, its JSON too."""
    kept = previous(path)
    for old, new in ((path, kept), (about_file(path), about_file(kept))):
        if old.exists():
            old.replace(new)


def copy_checkpoint(source: Path, target: Path, **about: Any) -> None:
    """Copy a checkpoint atomically, with the JSON beside it; a JSON of what stood at ``target`` before is not left there.

    Args:
        about: what that JSON says besides.
    """
    if source.resolve() == target.resolve():
        return
    with atomic_path(target) as temporary:
        if source.suffix == target.suffix:
            shutil.copyfile(source, temporary)
        else:  # a .safetensors file under the name of a .pt could not be read
            torch.save(read_weights(source), temporary)
    about_file(target).unlink(missing_ok=True)
    if said := read_about(source) | about:
        _write_about(target, said)


def read_weights(path: Path | str) -> Any:
    """Read any ``.pt``/``.pth``/``.safetensors`` file without running code from it.

    Raises FileNotFoundError when there is no such file, CheckpointError when it is truncated, no checkpoint at all,
    or a pickle that holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a checkpoint at {path}, got nothing there. Train it first, or give its path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors and plain values, got a pickle that holds something else and could run code. "
            "It was not loaded. Use a file of weights from a source that you trust."
        ) from error
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        raise CheckpointError(
            f"{path}: expected a checkpoint, got a file that cannot be read ({type(error).__name__}: {error}). "
            "It may be truncated or of another kind: fetch or train it again."
        ) from error


def load_checkpoint(path: Path | str, kind: str) -> dict[str, Any]:
    """Read a checkpoint that ``save_checkpoint`` wrote, of the ``kind`` expected (``dsr`` or ``edgeface``).

    Raises FileNotFoundError or CheckpointError.
    """
    content = read_weights(path)
    found = content.get("kind") if isinstance(content, dict) else type(content).__name__
    if found != kind:
        raise CheckpointError(f"{path}: expected a {kind} checkpoint of dsrkit, got kind {found!r}. Give the right file.")
    return content


def load_strict(module: nn.Module, weights: dict[str, Tensor], path: Path | str) -> None:
    """``load_state_dict(strict=True)`` with an error of one paragraph instead of a page.

    Raises CheckpointError when names or shapes differ.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{key}: {tuple(expected[key].shape)} expected, {tuple(weights[key].shape)} got"
        for key in expected.keys() & weights.keys()
        if expected[key].shape != weights[key].shape
    ]
    if missing or surplus or shapes:
        raise CheckpointError(
            f"{path}: expected weights of {type(module).__name__}, got others. Missing {len(missing)} {missing[:2]}, "
            f"unknown {len(surplus)} {surplus[:2]}, wrong shape {len(shapes)} {shapes[:2]}. "
            "It belongs to another architecture: give the right file or variant."
        )
    module.load_state_dict(weights, strict=True)
