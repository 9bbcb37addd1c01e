"""`python -m tidelog.cli`: the command, where it isn't on the path."""

from tidelog.cli import main

main(prog_name="tidelog")
