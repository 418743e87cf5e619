"""Make a run's page and show its table: ``python -m dsrkit.evaluation outputs/demo``; or a comparison's page."""

import sys
from pathlib import Path

from dsrkit.evaluation.headline import control_sentence, headline_table
from dsrkit.evaluation.page import export_html
from dsrkit.evaluation.report import read_metrics

COMPARISON = "06_comparison"

if len(sys.argv) != 2:
    sys.exit("Expected one folder of a run or of a comparison: python -m dsrkit.evaluation outputs/demo")
folder = Path(sys.argv[1])
if (folder / f"{COMPARISON}.ipynb").is_file():
    page = export_html(folder / f"{COMPARISON}.ipynb", folder / f"{COMPARISON}.html")
    tables = folder / "headline.md"
    if not tables.is_file():
        sys.exit(f"Expected the tables of a comparison at {tables}, got nothing there. Run {COMPARISON} to its end.")
    text = tables.read_text(encoding="utf-8").rstrip()
else:
    page = export_html(folder / "05_evaluation.ipynb", folder / "05_evaluation.html")
    rows = read_metrics(folder / "metrics.json")["rows"]
    sentence = control_sentence([row for row in rows if row["protocol"] == rows[0]["protocol"]])
    text = f"{headline_table(rows).to_string()}\n\n{sentence}"
print(f"\n{text}\n\nOpen {page.resolve()}")
