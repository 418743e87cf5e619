"""docs/RESULTS.md quotes the numbers that were kept, not others."""

import json
import re
import sys

import pytest
from conftest import REPOSITORY

RESULTS = (REPOSITORY / "docs" / "RESULTS.md").read_text()
TABLES = sorted([*(REPOSITORY / "docs/results/recipes").glob("*.json"), *(REPOSITORY / "docs/results/search").glob("*.json")])


def quoted(name):
    """What stands between the two marks of a table in docs/RESULTS.md."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", RESULTS, re.DOTALL)
    assert found, f"docs/RESULTS.md holds no table <!-- {name} -->"
    return found[1].strip()


@pytest.fixture
def of_benchmarks(monkeypatch):
    """Modules of ``benchmarks`` can be imported by name, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(REPOSITORY / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_tables_are_quoted_as_measured(path, of_benchmarks):
    from on_validation import markdown

    assert quoted(f"{path.parent.name} {path.stem}") == markdown(json.loads(path.read_text()))


def test_scaling_is_quoted_as_measured(of_benchmarks):
    from scaling import computed, markdown

    results = json.loads((REPOSITORY / "docs/results/benchmarks/scaling.json").read_text())
    assert quoted("benchmarks scaling") == markdown(results)
    alone = [row for row in results["measured"] if row["processes"] == 1]
    assert results["computed"] == [
        line for row in alone for line in computed(row["step"], 1e6 * row["gradient_mb"], row["seconds"])
    ]
