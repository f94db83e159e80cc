"""`python -m cdc.cli` is `ledgertail`."""

from cdc.cli import main

main(prog_name="ledgertail")
