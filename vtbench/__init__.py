"""vtbench: a benchmark suite for visual tokenizers.

>>> from vtbench import evaluate, load_task, load_tokenizer  # doctest: +SKIP
>>> run = evaluate(load_tokenizer("tiny"), load_task("text"))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["evaluate", "load_task", "load_tokenizer", "read_runs", "wrap"]

if TYPE_CHECKING:
    from vtbench.engine import evaluate
    from vtbench.live import wrap
    from vtbench.results import read_runs
    from vtbench.task import load_task
    from vtbench.tokenizer import load_tokenizer

_HOMES = {
    "evaluate": "engine",
    "load_task": "task",
    "load_tokenizer": "tokenizer",
    "read_runs": "results",
    "wrap": "live",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, because it brings torch with it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vtbench' has no attribute {name!r}")
    return getattr(import_module(f"vtbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Name what is public, though nothing of it is imported yet."""
    return [*__all__, "__version__"]
