"""What people read about a model: the HTML report of a run, tables for the terminal, and the list of runs."""
