"""From model and data to a run folder: objectives, optimisation, loop, checkpoints."""
