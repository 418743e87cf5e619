"""docs/RESULTS.md quotes the numbers that were kept, not others."""

import json
import re
import sys

import pytest
from conftest import REPOSITORY

RESULTS = (REPOSITORY / "docs" / "RESULTS.md").read_text()
TABLES = sorted([*(REPOSITORY / "docs/results/recipes").glob("*.json"), *(REPOSITORY / "docs/results/search").glob("*.json")])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_tables_are_quoted_as_measured(path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from on_validation import markdown

    name = f"{path.parent.name} {path.stem}"
    quoted = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", RESULTS, re.DOTALL)
    assert quoted and quoted[1].strip() == markdown(json.loads(path.read_text()))
    monkeypatch.delitem(sys.modules, "on_validation")
