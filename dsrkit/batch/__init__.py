"""Every stage of every run by one command, on Snakemake: what the graph (``workflow/Snakefile``) asks the library for.

    python -m dsrkit.batch vlr16 vlr24 vlr32        # or: make batch RUNS="vlr16 vlr24 vlr32"
    python -m dsrkit.batch vlr16 --dry-run          # what would run, and why

Snakemake knows what depends on what, what is done and what runs side by side. Here is what it does not know: which code a
notebook uses (``library``), which GPU a job gets (``gpu``), and what came of it all (``summary``).
"""
