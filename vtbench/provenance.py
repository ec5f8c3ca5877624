"""Identity of what computed a run: vtbench's code, the network's code wherever it lives, libraries, the commit."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from torch import nn

CODE = ("vtbench", "tokenizers", "tasks", "pyproject.toml")
"""What of a checkout decides the numbers: a run is dirty where these differ from the commit."""

LIBRARIES = (
    *("torch", "torchvision", "numpy", "scipy", "pillow", "pillow-jxl-plugin", "opencv-python-headless"),
    *("lpips", "torch-fidelity", "easyocr", "rapidocr", "onnxruntime", "transformers", "diffusers", "datasets"),
)
"""Distributions that compute, decode or read."""

LARGEST_PACKAGE = 500
"""Python files of a package that are hashed as a whole; of a larger one, those that define the network's classes."""


@cache
def code_digest() -> str:
    """sha256 over the package's own source files, so that shards of different code never mix."""
    package = Path(__file__).resolve().parent
    return _digest_of(sorted(package.rglob("*.py")), package)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can move a number."""
    return {"python": platform.python_version(), **{name: _version(name) or "not installed" for name in LIBRARIES}}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def network_digest(network: nn.Module, *others: object) -> str | None:
    """sha256 over the code that a network runs and that is not vtbench's: its classes' packages, wherever they live.

    Of each package it covers distribution and version, the commit where it lies in a checkout, and the files: all of a
    package of up to LARGEST_PACKAGE files, else those that define the classes.

    Args:
        network: its class and those of all its parts.
        others: functions and objects that stand in for its methods.

    Returns:
        None where all of it is vtbench's, torch's or Python's own.
    """
    kinds: set[type | object] = {type(part) for part in network.modules()}
    for other in others:
        kinds |= {type(part) for part in other.modules()} if isinstance(other, nn.Module) else set()
        kinds.add(other if inspect.isroutine(other) else type(other))
    by_package: dict[str, set[str]] = {}
    for kind in kinds:
        module = getattr(kind, "__module__", None) or "__main__"
        by_package.setdefault(module.partition(".")[0], set()).add(module)
    said = [
        _package_digest(package, modules)
        for package, modules in sorted(by_package.items())
        if package not in ("vtbench", "torch") and package not in sys.stdlib_module_names - {"__main__"}
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest() if said else None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Which distributions bring a package; asked once, since it reads the files of all of them."""
    return metadata.packages_distributions()


def _package_digest(package: str, modules: Iterable[str]) -> list[str | None]:
    distributions = _distributions().get(package, [])
    versions = [f"{name} {_version(name)}" for name in sorted(set(distributions))]
    files = sorted(path for name in modules if (path := _file_of(name)) is not None)
    root = _file_of(package)
    commit = None
    if root is not None:
        folder = root.parent
        if root.name == "__init__.py":
            whole = sorted(folder.rglob("*.py"))
            files = whole if len(whole) <= LARGEST_PACKAGE else files
        commit = git(folder, "rev-parse", "HEAD")
    return [package, *versions, _digest_of(files, None), commit]


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") else None


def _digest_of(files: Iterable[Path], root: Path | None) -> str:
    total = hashlib.sha256()
    for path in files:
        name = path.relative_to(root).as_posix() if root else path.name
        total.update(name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def commit() -> tuple[str | None, bool | None]:
    """Say which commit of vtbench this is, and whether code or cards differ from it; None in an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    changes = git(root, "status", "--porcelain", "--", *CODE)
    return git(root, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def git(folder: Path, *arguments: str) -> str | None:
    """Ask git about a checkout; None where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
