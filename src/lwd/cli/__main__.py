"""`python -m lwd.cli` is `lwd`."""

from lwd.cli import main

main()
