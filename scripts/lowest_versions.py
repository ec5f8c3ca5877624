"""Print the lowest versions that pyproject.toml admits, as constraints for pip: `make test-lowest` installs them.

A bound is written as `name>=version` there; a dependency without one is an error, since nothing would then be tested.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lowest(project: Path = PROJECT) -> dict[str, str]:
    """Give the lowest version of every dependency and of what the extras bring, by name."""
    said = tomllib.loads(project.read_text())["project"]
    groups = [said["dependencies"], *said["optional-dependencies"].values()]
    found: dict[str, str] = {}
    for requirement in (one for group in groups for one in group if not one.startswith("vtbench[")):
        match = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
        if match is None:
            sys.exit(f"{project.name}: {requirement!r} has no lower bound; expected name>=version")
        name, version = match.groups()
        if found.setdefault(name, version) != version:
            sys.exit(f"{project.name}: {name} has two lower bounds, {found[name]} and {version}; expected one")
    return found


if __name__ == "__main__":
    sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(lowest().items()))
