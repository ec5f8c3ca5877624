"""The report: one self-contained page out of runs, and pictures for papers. No torch here; results are only read."""
