"""What turns a model and data into a run folder: objectives, optimisation, the loop, checkpoints."""
