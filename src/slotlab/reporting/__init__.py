"""The HTML report of a run, tables for the terminal, and the list of runs."""
