"""Where a run's files lie, how they are written, and where they came from.

A *run* is a folder of parameters (``params/<run>/``) and a folder of results (``outputs/<run>/``). Every path that a
notebook uses comes from here, never from the current working directory: papermill runs in the caller's folder,
JupyterLab in ``notebooks/``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import platform
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(os.environ.get("DSRKIT_ROOT", Path(__file__).resolve().parents[1]))
PACKAGES = ("dsrkit", "torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "papermill")


@dataclass(frozen=True)
class Run:
    """The files of one run. ``Run("vlr32").dsr`` is ``outputs/vlr32/dsr.pt``.

    Raises ValueError for a name that is not a plain folder name.
    """

    name: str
    root: Path = field(default_factory=lambda: ROOT)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(
                f"A run is named with letters, digits, '.', '_' and '-', got {self.name!r}. Choose a name such as 'vlr32'."
            )

    @property
    def folder(self) -> Path:
        return self.root / "outputs" / self.name

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def dsr(self) -> Path:
        return self.folder / "dsr.pt"

    @property
    def edgeface(self) -> Path:
        return self.folder / "edgeface.pt"

    @property
    def edgeface_direct(self) -> Path:
        """The control: an EdgeFace fine-tuned in the same way on bicubic faces, without a DSR."""
        return self.folder / "edgeface_direct.pt"

    def dsr_member(self, number: int) -> Path:
        """DSR ``number`` of an ensemble over seeds: 1 is ``dsr.pt``, 2 is ``dsr_member2.pt``, …

        Raises ValueError for a number below 1.
        """
        if number < 1:
            raise ValueError(f"number: expected a member of the ensemble, 1 or more, got {number}. Member 1 is dsr.pt.")
        return self.dsr if number == 1 else self.folder / f"dsr_member{number}.pt"

    def cycle(self, number: int) -> tuple[Path, Path]:
        """DSR and EdgeFace of cycle ``number`` (1, 2, …)."""
        return self.folder / f"dsr_cycle{number}.pt", self.folder / f"edgeface_cycle{number}.pt"

    def dsr_members(self, first: int = 1) -> list[Path]:
        """Members ``first``, ``first + 1``, … of an ensemble that are on disk, up to the first gap."""
        return list(itertools.takewhile(Path.exists, map(self.dsr_member, itertools.count(first))))

    def cycles(self, first: int = 1) -> list[tuple[Path, Path]]:
        """Cycles ``first``, ``first + 1``, … whose DSR is on disk, up to the first gap; as ``cycle`` gives them."""
        return list(itertools.takewhile(lambda files: files[0].exists(), map(self.cycle, itertools.count(first))))

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    def figure(self, name: str) -> Path:
        path = self.folder / "figures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def resolve(path: str, default: Path, what: str) -> Path:
    """The path a parameter names, or ``default`` when the parameter is empty; it must exist.

    ``$VARIABLES`` and ``~`` are expanded; a relative path starts at the repository's root.
    Raises FileNotFoundError saying what was looked for and where.
    """
    expanded = os.path.expanduser(os.path.expandvars(path))
    unset = re.search(r"\$\{?(\w+)", expanded if expanded else path)
    if unset:
        raise FileNotFoundError(
            f"{what}: expected a path, got {path!r}, in which ${unset[1]} is not set. "
            f"Set it (export {unset[1]}=/path/to/…) or give the path itself."
        )
    found = ROOT / expanded if path else default
    if not found.exists():
        raise FileNotFoundError(
            f"{what}: expected it at {found}, got nothing there. Run the stage that makes it, or give its path."
        )
    return found


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` takes the first CUDA device, else Apple's MPS, else the CPU; any torch device name is taken as it is."""
    process = int(os.environ.get("LOCAL_RANK", 0))  # each process of a launcher has a GPU of its own
    if name != "auto":
        try:
            device = torch.device(name)
            if device.type == "cuda" and device.index is None:
                return torch.device("cuda", process)
            if device.type == "cuda" and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
                raise ValueError(f"device: expected auto or cuda for several processes, got {name!r}, one GPU for all of them.")
            return device
        except RuntimeError as error:
            raise ValueError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}.") from error
    if torch.cuda.is_available():
        return torch.device("cuda", process)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(name: str, device: torch.device) -> str:
    """``auto`` takes bf16 where the hardware computes in it: a GPU that has it, a CPU with AVX512-BF16 or AMX; else fp32.

    On a CPU without them bf16 is emulated, and ten times as slow as fp32. Any other name is taken as it is.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    known: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch has none
    capable = known() if device.type == "cpu" else {}
    return "bf16" if capable.get("avx512_bf16") or capable.get("amx_bf16") else "fp32"


def is_main() -> bool:
    """True in the one process, or the first of several that train together: the one that writes files."""
    return os.environ.get("RANK", "0") == "0"


def is_interactive() -> bool:
    """True in a kernel that a Jupyter server started for a person; False under papermill and in tests."""
    return "JPY_SESSION_NAME" in os.environ


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it into place at the end, so that no reader sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commit() -> str:
    """The commit of the code, with ``+changes`` when the working tree differs; ``unknown`` outside a git checkout."""
    try:
        answers = [
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except OSError:  # no git on this machine
        return "unknown"
    if any(answer.returncode for answer in answers):
        return "unknown"
    head, changes = (answer.stdout.strip() for answer in answers)
    return head[:12] + ("+changes" if changes else "")


def provenance(parameters: Mapping[str, Any], device: torch.device | str, **inputs: Path) -> dict[str, Any]:
    """What a result depends on: parameters, code, versions, machine, and the SHA-256 of every input file.

    Args:
        parameters: the stage's parameters, JSON-compatible.
        device: where it ran.
        inputs: files read, by role, for example ``dsr=Path("outputs/demo/dsr.pt")``.
    """
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.machine()
    return {
        "parameters": dict(parameters),
        "commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": f"{device} ({name}, {os.cpu_count()} CPU cores)",
        "inputs": {role: {"file": path.name, "sha256": file_hash(path)} for role, path in inputs.items()},
    }


def banner(about: Mapping[str, Any]) -> str:
    """A provenance in two lines, for the top of a notebook."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    return f"run {about['parameters']['run']} on {about['device']}, {about['started']}, commit {about['commit']}\n{packages}"
