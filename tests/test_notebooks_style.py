"""Notebooks stay thin and stripped, and papermill understands their parameters."""

import ast
import json
import re

import pytest
from conftest import REPOSITORY
from papermill.cli import papermill

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
STAGES = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]
LINE = re.compile(r"(?P<name>[a-z][a-z0-9_]*): (?P<type>str|int|float|bool|list) = [^#=]+  # (?P<help>[^=]+)")

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
of_stages = pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text())


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", [])


def parameter_lines(path):
    return next("".join(cell["source"]) for cell in code_cells(path) if is_parameters(cell)).splitlines()


def test_there_are_notebooks():
    assert {path.stem for path in STAGES} >= {
        "01_data_migration", "02_dsr_training", "03_edgeface_finetune", "04_cyclic_cycle", "05_evaluation"
    }  # fmt: skip


@by_name
def test_no_outputs_in_git(path):
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@by_name
def test_cells_have_stable_names(path):
    names = [cell["id"] for cell in read(path)["cells"]]
    assert len(set(names)) == len(names)


@by_name
def test_kernel_is_the_one_everybody_has(path):
    assert read(path)["metadata"]["kernelspec"]["name"] == "python3"


@by_name
def test_logic_lives_in_the_library(path):
    for cell in code_cells(path):
        kinds = {type(node) for node in ast.walk(ast.parse("".join(cell["source"])))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}


@by_name
def test_cells_are_short(path):
    long = {cell["id"]: len(cell["source"]) for cell in code_cells(path) if len(cell["source"]) > 15 and not is_parameters(cell)}
    assert not long


@of_stages
def test_a_title_then_the_parameters_then_their_check(path):
    cells = read(path)["cells"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert f"papermill notebooks/{path.name}" in "".join(cells[0]["source"])
    tagged = [number for number, cell in enumerate(cells) if is_parameters(cell)]
    assert tagged == [1]
    assert "from_notebook(globals())" in "".join(cells[2]["source"])


@of_stages
def test_every_parameter_line_is_one_that_papermill_can_read(path):
    for line in parameter_lines(path):
        assert LINE.fullmatch(line), line
        assert line.count("=") == 1, line  # a second one hides the parameter from --help-notebook


@of_stages
def test_papermill_lists_every_parameter_with_its_help(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit, match=r"^0$"):
        papermill.main(["--help-notebook", str(path)])
    shown = capsys.readouterr().out
    for line in parameter_lines(path):
        match = LINE.fullmatch(line)
        assert re.search(rf"^\s*{match['name']}: {match['type']} \(default ", shown, re.MULTILINE), match["name"]
        assert match["help"].split()[0] in shown
