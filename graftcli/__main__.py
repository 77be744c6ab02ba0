"""`python3 -m graftcli` is `graftcli`."""

from graftcli.cli import main

main()
