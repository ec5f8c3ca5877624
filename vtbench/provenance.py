"""Identity of what computed a run: vtbench's code, the network's code wherever it lives, libraries, the commit.

Importing this module loads no torch.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

from vtbench import files

if TYPE_CHECKING:
    from torch import nn

CODE = ("vtbench", "tokenizers", "tasks", "pyproject.toml")
"""What of a checkout decides the numbers: a run is dirty where these differ from the commit."""

SHOWING = {
    *("rates.py", "leaderboard.py", "comparison.py", "gate.py", "validation.py", "export.py", "sheet.py"),
    *("report", "cli", "__main__.py"),
}
"""What of the package stands above the engine: it shows and compares runs that are made, and moves no number."""

LIBRARIES = (
    *("torch", "torchvision", "numpy", "scipy", "pillow", "pillow-jxl-plugin", "opencv-python-headless"),
    *("lpips", "torch-fidelity", "easyocr", "rapidocr", "onnxruntime", "transformers", "diffusers", "datasets"),
)
"""Distributions that compute, decode or read."""

LARGEST_PACKAGE = 500
"""Python files of a package that are hashed as a whole; of a larger one, those that define the network's classes."""


_PACKAGE = Path(__file__).resolve().parent


@cache
def code_digest(package: Path = _PACKAGE) -> str:
    """sha256 over the package's own source files but `SHOWING`, so that shards of different code never mix."""
    return _digest_of(
        [path for path in _sources(package) if path.relative_to(package).parts[0] not in SHOWING], package
    )


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
    package of up to LARGEST_PACKAGE files, else those that define the classes. What these import of the user's own
    modules counts likewise. Code without a file (a notebook's), or whose file is gone since it was imported, is covered
    by its compiled functions.

    Args:
        network: its class and those of all its parts.
        others: functions and objects that stand in for its methods, and further functions, classes and modules.

    Returns:
        None where all of it is vtbench's, torch's or Python's own.
    """
    from torch import nn

    kinds: set[type | object] = {type(part) for part in network.modules()}
    by_module: dict[str, list[object]] = {}
    for other in others:
        while isinstance(other, functools.partial):
            other = other.func
        if isinstance(other, ModuleType):
            by_module[other.__name__] = []
            continue
        kinds |= {type(part) for part in other.modules()} if isinstance(other, nn.Module) else set()
        kinds.add(other if inspect.isroutine(other) or inspect.isclass(other) else type(other))
    for kind in kinds:
        by_module.setdefault(getattr(kind, "__module__", None) or "__main__", []).append(kind)
    by_package: dict[str, set[str]] = {}
    for module in _with_imports(by_module):
        by_package.setdefault(module.partition(".")[0], set()).add(module)
    said: list[object] = []
    for package in sorted(by_package.keys() - {"vtbench", "torch"} - (sys.stdlib_module_names - {"__main__"})):
        said.append(_package_digest(package, by_package[package]))
        for name in sorted(by_package[package]):
            path = _file_of(name)
            if path is None and name in by_module:
                said.append(_compiled(name, by_module[name]))
            elif path is not None and not path.is_file():
                said.append(_compiled(name, [*by_module.get(name, []), *_own(name)]))
    return hashlib.sha256(json.dumps(said).encode()).hexdigest() if said else None


def _with_imports(modules: Iterable[str]) -> set[str]:
    """Name modules, and those of the user's own that they import, directly or through one another."""
    found: set[str] = set()
    new = set(modules)
    while new:
        found |= new
        named = [value for name in new if name in sys.modules for value in vars(sys.modules[name]).values()]
        imported = {
            value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) for value in named
        }
        new = {name for name in imported if isinstance(name, str) and _is_the_users(name)} - found
    return found


def _is_the_users(module: str) -> bool:
    """Tell whether a module is neither vtbench's nor Python's nor installed."""
    path = _file_of(module)
    if path is None or module.partition(".")[0] == "vtbench":
        return False
    return not files.is_installed(path)


def _own(module: str) -> list[object]:
    """The functions and classes that an imported module defines."""
    values = vars(sys.modules[module]).values()
    return [value for value in values if isinstance(value, type | FunctionType) and value.__module__ == module]


def _compiled(module: str, kinds: Iterable[object]) -> str:
    """sha256 over compiled functions: those of some classes of a module, and what they name in it."""
    total = hashlib.sha256()
    seen: dict[int, object] = {}
    left = sorted(kinds, key=lambda kind: getattr(kind, "__qualname__", ""))
    while left:
        kind = left.pop()
        if id(kind) in seen:
            continue
        seen[id(kind)] = kind
        if isinstance(kind, type) and kind.__module__ == module:
            left += [*kind.__bases__, *(value for _, value in sorted(vars(kind).items()))]
        elif isinstance(kind, MethodType | staticmethod | classmethod):
            left.append(kind.__func__)
        elif isinstance(kind, property):
            left += [kind.fget, kind.fset]
        elif isinstance(kind, FunctionType) and kind.__module__ == module:
            said: list[object] = [kind.__qualname__, *map(_plain, kind.__defaults__ or ())]
            for code in _codes(kind.__code__):
                named = [kind.__globals__.get(name) for name in code.co_names]
                said += [code.co_code.hex(), code.co_names, [*map(_plain, code.co_consts)], [*map(_plain, named)]]
                left += named
            total.update(repr(said).encode())
    return total.hexdigest()


def _plain(value: object) -> str | None:
    """Show a value whose text says all of it."""
    return repr(value) if isinstance(value, bool | int | float | complex | str | bytes) else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Which distributions bring a package; asked once, since it reads the files of all of them."""
    return metadata.packages_distributions()


def _package_digest(package: str, modules: Iterable[str]) -> list[str | None]:
    distributions = _distributions().get(package, [])
    versions = [f"{name} {_version(name)}" for name in sorted(set(distributions))]
    found = sorted(path for name in modules if (path := _file_of(name)) is not None and path.is_file())
    root = _file_of(package)
    commit = None
    if root is not None:
        folder = root.parent
        if root.name == "__init__.py":
            whole = _sources(folder)
            found = whole if len(whole) <= LARGEST_PACKAGE else found
        commit = git(folder, "rev-parse", "HEAD")
    return [package, *versions, _digest_of(found, None), commit]


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") else None


def _sources(folder: Path) -> list[Path]:
    """List Python's files below a folder, without what an editor hides among them: Emacs makes links to nothing."""
    return sorted(path for path in folder.rglob("*.py") if not path.name.startswith(".") and path.is_file())


def _digest_of(paths: Iterable[Path], root: Path | None) -> str:
    total = hashlib.sha256()
    for path in paths:
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
