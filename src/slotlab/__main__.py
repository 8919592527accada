"""`python -m slotlab`, which torchrun needs."""

from slotlab.cli import main

main()
