"""`python -m vtbench` is `vtbench`."""

from vtbench.cli import main

main()
