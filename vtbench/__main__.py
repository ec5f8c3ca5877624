"""`python -m vtbench` is `vtbench`."""

from vtbench.cli import main

if __name__ == "__main__":
    main()
