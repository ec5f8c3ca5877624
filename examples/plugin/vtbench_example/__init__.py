"""What a package adds to vtbench: one file each, and one line each in pyproject.toml."""
