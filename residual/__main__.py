"""`python -m residual` is the command `residual`."""

from residual.cli.app import main

main()
