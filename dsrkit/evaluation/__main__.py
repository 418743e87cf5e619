"""Make a run's page and show its table: ``python -m dsrkit.evaluation outputs/demo``."""

import sys
from pathlib import Path

from dsrkit.evaluation.page import export_html
from dsrkit.evaluation.report import headline_table, read_metrics

if len(sys.argv) != 2:
    sys.exit("Expected one folder of a run: python -m dsrkit.evaluation outputs/demo")
folder = Path(sys.argv[1])
page = export_html(folder / "05_evaluation.ipynb", folder / "05_evaluation.html")
table = headline_table(read_metrics(folder / "metrics.json")["rows"])
print(f"\n{table.to_string()}\n\nOpen {page.resolve()}")
