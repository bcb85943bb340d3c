"""`python -m hpcseg`."""

from hpcseg.cli import main

main()
