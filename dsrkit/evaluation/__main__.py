"""Make a run's page and show its table: ``python -m dsrkit.evaluation outputs/demo``."""

import sys
from pathlib import Path

from dsrkit.evaluation.headline import control_sentence, headline_table
from dsrkit.evaluation.page import export_html
from dsrkit.evaluation.report import read_metrics

if len(sys.argv) != 2:
    sys.exit("Expected one folder of a run: python -m dsrkit.evaluation outputs/demo")
folder = Path(sys.argv[1])
page = export_html(folder / "05_evaluation.ipynb", folder / "05_evaluation.html")
rows = read_metrics(folder / "metrics.json")["rows"]
sentence = control_sentence([row for row in rows if row["protocol"] == "both-lr"])
print(f"\n{headline_table(rows).to_string()}\n\n{sentence}\n\nOpen {page.resolve()}")
