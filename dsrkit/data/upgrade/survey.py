"""What lies in the HR folders of a tree of the older layout: sizes from headers, and the files that must be seen to."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dsrkit.data.degrade import HR_SIZE
from dsrkit.data.layout import SPLITS, hr_folder
from dsrkit.data.shrink import CHUNK, Look, is_png, look_at
from dsrkit.data.upgrade.ledger import LEDGER


@dataclass(frozen=True)
class Problem:
    """A file to be seen to. ``stops`` where the upgrade cannot end before that."""

    split: str
    folder: str
    name: str
    problem: str
    stops: bool = True


@dataclass(frozen=True)
class Part:
    """One split: HR images to shrink, those of the right size, files that are no images, and what is wrong."""

    split: str
    hr: Path
    larger: list[Look]
    ready: list[Look]
    others: list[Look] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def new(self) -> Path:
        """Where new files are written until all of them are there."""
        return new_folder(self.hr)

    @property
    def kept(self) -> Path:
        """What the folder of originals is called afterwards: ``hr_images_160x160``, by the size that most of them have."""
        (width, height), _ = Counter((look.width, look.height) for look in self.larger).most_common(1)[0]
        return self.hr.with_name(f"{self.hr.name}_{width}x{height}")


def new_folder(hr: Path) -> Path:
    return hr.with_name(f"{hr.name}.{HR_SIZE}.partial")


def survey(root: Path, pool: Executor) -> list[Part]:
    """Look at every HR file of every split, in the pool's processes. Raises ValueError for a folder of another layout."""
    splits = [split for split in SPLITS if os.path.lexists(hr_folder(root, split).parent)]
    if not splits:
        found = quoted(sorted({*os.listdir(root)} - {LEDGER}))
        raise ValueError(
            f"{root}: expected {hr_folder(Path(), 'train')} (or val, test), got {found}. "
            "Give the folder that holds train_processed."
        )
    return [_part(root, split, pool) for split in splits]


def check_root(root: Path) -> None:
    """Raises FileNotFoundError where ``root`` is no folder."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"Expected a data set at {root}, got no folder there. Give the folder that holds train_processed."
        )


def _part(root: Path, split: str, pool: Executor) -> Part:
    hr = hr_folder(root, split)
    for folder in (hr.parent, hr):
        if folder.is_symlink() or not folder.is_dir():
            raise ValueError(
                f"{folder}: expected a folder, got {'a link' if folder.is_symlink() else 'none'}. Put the folder itself there; "
                "after an upgrade that was killed, run the upgrade again."
            )
    images, others, problems = _sort(split, hr)
    looks = looks_at(pool, hr, images, HR_SIZE)
    problems += [Problem(split, hr.name, look.name, look.problem) for look in looks if look.problem]
    larger, ready = (
        [look for look in looks if not look.problem and (look.width > HR_SIZE) == wanted] for wanted in (True, False)
    )
    return Part(split, hr, larger, ready, [Look(name, 0, 0, (hr / name).stat().st_size, "") for name in others], problems)


def _sort(split: str, hr: Path) -> tuple[list[str], list[str], list[Problem]]:
    """Names of PNG images, of files that are no images, and what cannot stay."""
    images, others, problems = [], [], []
    for entry in sorted(os.scandir(hr), key=lambda entry: entry.name):
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_symlink():
            problems.append((entry.name, "expected a file, got a link. Put the file itself in its place."))
        elif not entry.is_file():
            problems.append((entry.name, "expected a file, got a folder. Images lie side by side: move it out."))
        elif is_png(entry.name):
            images.append(entry.name)
        elif suffix in Image.registered_extensions():
            problems.append((entry.name, f"expected PNG images, got {suffix}. Convert it to PNG, or move it out."))
        else:
            others.append(entry.name)
    return images, others, [Problem(split, hr.name, name, f"{name}: {text}") for name, text in problems]


def looks_at(pool: Executor, folder: Path, names: Sequence[str], size: int = 0) -> list[Look]:
    """``look_at`` for many files, in the pool's processes."""
    parts = chunks(names, 4 * CHUNK)
    return list(itertools.chain.from_iterable(pool.map(look_at, itertools.repeat(folder), parts, itertools.repeat(size))))


def chunks(names: Sequence[str], length: int) -> list[Sequence[str]]:
    return [names[start : start + length] for start in range(0, len(names), length)]


def readable(text: str) -> str:
    """Text that can be printed, whatever bytes a file name is made of."""
    return text.encode("utf-8", "backslashreplace").decode()


def quoted(names: Sequence[str]) -> str:
    """The first few names; quotation marks keep odd characters readable."""
    return f"{', '.join(map(repr, names[:5])) or 'nothing'}{', …' * (len(names) > 5)}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
