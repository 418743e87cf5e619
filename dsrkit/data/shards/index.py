"""What lies in a folder of shards, and whether all of it is there.

<folder>/train-000000.tar, …      faces in random order; a face is the members 000000042.json, 000000042.hr.png and
                                  000000042.vlr_16x16.png, …: 42 is its row in the split, images are the data set's, byte for byte
<folder>/train_shards.json        the index of these
<folder>/manifest.csv, …          the data set's tables; the manifest is written last: its presence says that all is whole
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ValidationError
from tqdm.auto import tqdm

from dsrkit.data.layout import dataset_hash, read_manifest
from dsrkit.runs import atomic_path, file_hash, is_interactive


class Shard(BaseModel):
    """One tar file: how many faces, its bytes, and their SHA-256."""

    faces: int
    bytes: int
    sha256: str


class ShardIndex(BaseModel):
    """One split: its subjects (a label is a position in this list), what there is of a face, and the tar files."""

    subjects: list[str]
    vlr_sizes: list[str]
    has_hr: bool
    shards: list[Shard]


def shard_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:06d}.tar"  # by number: an index cannot name a file elsewhere


def index_path(folder: Path, split: str) -> Path:
    return folder / f"{split}_shards.json"


def read_index(folder: Path | str, split: str) -> ShardIndex:
    """The index of a split, once every tar file is seen to be there in its full length.

    Raises FileNotFoundError where there are no such shards; ValueError for a tar file or an index that is not whole.
    """
    path = index_path(Path(folder), split)
    if not path.is_file():
        raise FileNotFoundError(f"Shards: expected {path}, got nothing there. Run write_shards, or copy the whole folder again.")
    try:
        index = ShardIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"{path}: expected an index of shards, got another file ({reason}). Copy it again.") from error
    for number, shard in enumerate(index.shards):
        tar = shard_path(Path(folder), split, number)
        got = tar.stat().st_size if tar.is_file() else "no such file"
        if got != shard.bytes:
            raise ValueError(f"{tar}: expected {shard.bytes} bytes, got {got}. Copy it again.")
    return index


def check_shards(folder: Path | str) -> None:
    """Read every tar file and compare its SHA-256. Raises like ``read_index``, or ValueError naming the first that differs."""
    folder = Path(folder)
    for split in splits_of(folder):
        shards = read_index(folder, split).shards
        for number, shard in enumerate(tqdm(shards, desc=f"checking {split}", disable=not is_interactive())):
            tar = shard_path(folder, split, number)
            if (got := file_hash(tar)) != shard.sha256:
                raise ValueError(f"{tar}: expected SHA-256 {shard.sha256}, got {got}. Copy it again.")


def splits_of(dataset: Path) -> list[str]:
    """The splits of a data set, or of a folder of shards. Raises FileNotFoundError where there is neither."""
    if not (dataset / "manifest.csv").is_file():
        raise FileNotFoundError(f"Expected a data set at {dataset} (manifest.csv), got none. Run 01_data_migration first.")
    return sorted(set(read_manifest(dataset).split))


def refuse_another(folder: Path, dataset: Path) -> None:
    """Raises ValueError when ``folder`` holds another data set than ``dataset``."""
    if (folder / "manifest.csv").is_file() and dataset_hash(folder) != dataset_hash(dataset):
        raise ValueError(f"{folder}: expected an empty folder, got another data set. Remove it, or choose another folder.")


def copy_tables(dataset: Path, folder: Path) -> None:
    """Manifest, pairs and settings of a data set; the manifest last."""
    tables = [path for path in dataset.iterdir() if path.suffix in {".csv", ".json"} and not path.stem.endswith("_shards")]
    for table in sorted(tables, key=lambda path: path.name == "manifest.csv"):
        with atomic_path(folder / table.name) as temporary:
            shutil.copyfile(table, temporary)


def webdataset() -> ModuleType:
    """The optional package. Raises ImportError with the command that installs it."""
    try:
        import webdataset as package
    except ImportError as error:
        raise ImportError("Shards: expected the package webdataset, got none. Run: pip install 'dsrkit[shards]'") from error
    return package
