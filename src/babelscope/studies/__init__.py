"""Whole studies: from a model and text to a run directory. What the command line calls, and Python may."""
