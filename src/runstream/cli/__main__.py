"""`python -m runstream.cli`, where the console script is not on the path."""

from runstream.cli import main

main()
