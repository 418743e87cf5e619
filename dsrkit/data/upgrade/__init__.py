"""An existing data set with larger HR faces (160×160, 128×128, …) becomes one with HR 112×112, without ever being at risk.

    python -m dsrkit.data.upgrade ROOT --dry-run          # what would change, bytes, seconds, files that cannot be read
    python -m dsrkit.data.upgrade ROOT                    # the old folders stay as hr_images_160x160
    python -m dsrkit.data.upgrade ROOT --in-place         # the new files replace the old ones

Or, from Python: ``plan(root).table``, then ``upgrade(root).table``. ROOT holds the older layout,
``{train,val,test}_processed/{hr_images,vlr_images}/*.png``; VLR faces stay as they are.

How it is kept safe:

- New files are written beside the old ones, into ``hr_images.112.partial``, each under a temporary name and then renamed.
- A ledger says which are done, with SHA-256 of what was read and what was written. After a kill at any instant the same
  command goes on from there; a file that is not as the ledger says (half on disk after a power cut) is made again.
- Only when every file of every split is written and checked are the folders swapped, by two renames each, which a second
  run finishes if the first was killed between them. ``in_place`` moves the new files onto the old ones, a portion at a time.
- Everything is flushed to the disk before an original is renamed or replaced. (One flush for thousands of files: one each
  would take ten times as long as making them.)
- A file that cannot become 112×112 is named, never dropped, and nothing is swapped before it is seen to.
"""

from dsrkit.data.upgrade.dry_run import Plan, plan
from dsrkit.data.upgrade.report import Report
from dsrkit.data.upgrade.steps import upgrade

__all__ = ["Plan", "Report", "plan", "upgrade"]
