"""Which files of the library a notebook uses: when one of them changes, that notebook runs again, and no other."""

from __future__ import annotations

import ast
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import grimp
import nbformat

import dsrkit
from dsrkit.runs import atomic_path, file_hash

PACKAGE = Path(dsrkit.__file__).resolve().parent


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("dsrkit")


def library_record(notebook: Path | str, without: Sequence[str], folder: Path) -> str:
    """One file that changes when the code of ``library_files`` does: each file's SHA-256; return its path.

    It is as old as the newest of them, so that results which are newer still are up to date, and stays as it is where
    files were only touched.
    """
    files = [Path(file) for file in library_files(notebook, without)]
    text = json.dumps({str(file): file_hash(file) for file in files}, indent=1)
    record = folder / f"{Path(notebook).stem}.json"
    if not record.is_file() or record.read_text() != text:
        newest = max(file.stat().st_mtime_ns for file in files)
        with atomic_path(record) as temporary:
            temporary.write_text(text)
            os.utime(temporary, ns=(newest, newest))
    return str(record)


def library_files(notebook: Path | str, without: Sequence[str] = ()) -> list[str]:
    """The files of ``dsrkit`` that a notebook imports, directly or through others; relative where they lie in this folder.

    Args:
        without: packages whose code does not count, nor what only they import: what draws figures makes no checkpoint.

    Importing ``dsrkit.a.b`` runs ``dsrkit/a/__init__.py`` too, and what that imports.
    Raises FileNotFoundError, or ValueError for a notebook that imports no module of the library: a typing error, most likely.
    """
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    graph = _graph()
    counted = {module for module in graph.modules if not f"{module}.".startswith(tuple(f"{name}." for name in without))}
    found = {module for cell in cells for module in _imported(cell)} & counted
    if not found:
        raise ValueError(f"{notebook}: expected a notebook that imports from dsrkit, got none of its modules. Check it.")
    waiting = list(found)
    while waiting:
        module = waiting.pop()
        parent = module.rpartition(".")[0]
        near = (graph.find_modules_directly_imported_by(module) | {parent}) & counted - found
        found |= near
        waiting += near
    files = sorted(_file(module) for module in found)
    return [str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file) for file in files]


def _imported(cell: str) -> list[str]:
    """Names after import, and after from … import: of modules, and of what is in them."""
    names = []
    for node in ast.walk(ast.parse(cell)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
