"""What an upgrade has done so far: one JSON line a chunk of files, appended as they are written.

A killed process leaves at most half a last line, which is skipped: those files are made again. The ledger is also the lock
that keeps a second upgrade of the same tree out; the operating system opens it when the process ends, however it ends.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dsrkit.data.shrink import Outcome

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

LEDGER = "upgrade_ledger.jsonl"


class Ledger:
    """The ledger of the tree at ``root``: opened, locked and read; made if there is none.

    ``done`` holds the outcomes by split and name, ``seconds`` the time spent by split in all runs, ``runs`` the runs' names,
    ``swaps`` the names that the old folders get by split, while they are swapped, ``kept`` those that they have got.
    Raises RuntimeError while another process has it.
    """

    def __init__(self, root: Path) -> None:
        self.path = root / LEDGER
        self.done: dict[str, dict[str, Outcome]] = defaultdict(dict)
        self.seconds: dict[str, float] = defaultdict(float)
        self.runs: set[str] = set()
        self.swaps: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self._run = uuid.uuid4().hex[:8]
        self._clock = time.monotonic()
        self._stream = open(self.path, "ab+", buffering=0)  # noqa: SIM115  closed by __exit__
        self._lock(root)
        self._read()

    def _lock(self, root: Path) -> None:
        try:
            if fcntl:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise RuntimeError(
                f"{root}: expected to be alone, got another upgrade of this tree at work. Wait until it ends, or end it."
            ) from error
        except OSError as error:
            warnings.warn(f"{root}: no locks on this file system ({error}); see to it that nobody else upgrades it", stacklevel=3)

    def _read(self) -> None:
        self._stream.seek(0)
        content = self._stream.read()
        for line in content.splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a kill or a full disk
                continue
            self._take(record)
        if content and not content.endswith(b"\n"):
            self._stream.write(b"\n")

    def _take(self, record: dict[str, Any]) -> None:
        if "swaps" in record:
            self.swaps = record["swaps"]
            self.kept |= self.swaps
            return
        outcomes = [Outcome(*values) for values in record["outcomes"]]
        self.done[record["split"]].update({outcome.name: outcome for outcome in outcomes})
        self.seconds[record["split"]] += record["seconds"]
        self.runs.add(record["run"])

    def add(self, split: str, outcomes: Sequence[Outcome]) -> None:
        """Files that are written and checked, and the time since the last ones."""
        now = time.monotonic()
        passed, self._clock = now - self._clock, now
        good = [list(outcome) for outcome in outcomes if not outcome.problem]
        self._append({"run": self._run, "split": split, "seconds": passed, "outcomes": good})

    def begin_swaps(self, swaps: dict[str, str]) -> None:
        """From here on a rerun finishes the swaps: on disk before the first folder is renamed."""
        self._append({"swaps": swaps})
        os.fsync(self._stream.fileno())

    def end_swaps(self) -> None:
        """They are done, and must not be done again with the new files of a later upgrade, half written."""
        self._append({"swaps": {}})

    def _append(self, record: dict[str, Any]) -> None:
        self._take(record)
        line = json.dumps(record).encode() + b"\n"
        if self._stream.write(line) < len(line):
            raise OSError(errno.ENOSPC, f"{self.path}: expected to write a line, got half of it. Free some disk, then run again.")

    @property
    def empty(self) -> bool:
        """Whether nothing was done."""
        return not (any(self.done.values()) or self.kept)

    def remove(self) -> None:
        """Nothing is left to go on with."""
        self.path.unlink()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.empty:
            self.path.unlink(missing_ok=True)
        self._stream.close()
