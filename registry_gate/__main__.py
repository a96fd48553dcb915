"""`python -m registry_gate` is the command `registry-gate`."""

from registry_gate.cli import main

main()
