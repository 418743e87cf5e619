"""docs/RESULTS.md quotes the numbers that were kept, not others."""

import importlib.util
import json
import re

import pytest
from conftest import REPOSITORY

RESULTS = (REPOSITORY / "docs" / "RESULTS.md").read_text()


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs/results/recipes").glob("*.json")), ids=lambda path: path.stem)
def test_recipes_are_quoted_as_measured(path):
    quoted = re.search(rf"<!-- recipes {path.stem} -->\n(.*?)\n<!-- /recipes {path.stem} -->", RESULTS, re.DOTALL)
    assert quoted and quoted[1].strip() == benchmark("recipes").markdown(json.loads(path.read_text()))
