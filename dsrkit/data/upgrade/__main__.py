"""``python -m dsrkit.data.upgrade ROOT [--dry-run] [--in-place] [--workers N]``: HR 160×160 or 128×128 → 112×112."""

import argparse
import sys

from dsrkit.data.upgrade import plan, upgrade

# worker processes do not run a package's __main__, so there is no guard; see multiprocessing.spawn
parser = argparse.ArgumentParser(prog="python -m dsrkit.data.upgrade", description=__doc__)
parser.add_argument("root", help="folder with {train,val,test}_processed/{hr_images,vlr_images}")
parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
parser.add_argument("--in-place", action="store_true", help="replace the originals; else they stay as hr_images_160x160")
parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a CPU core")
options = parser.parse_args()
try:
    if options.dry_run:
        planned = plan(options.root, options.workers, options.in_place)
        listed = planned.problems.to_string(max_colwidth=100, max_rows=20) if len(planned.problems) else ""
        print(planned.table.to_string(index=False), listed, planned, sep="\n")
    else:
        report = upgrade(options.root, options.workers, options.in_place, progress=sys.stderr.isatty())
        print(report.table.to_string(index=False), report, sep="\n")
except (OSError, ValueError, RuntimeError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
