"""The command line. torch is imported inside commands only: `vtbench --help` and `vtbench list` start without it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from vtbench import __version__
from vtbench.cli import export, judge, look, machine, merge, report, run, sheet
from vtbench.cli._terminal import app, complaints, console, in_one_line, prepare
from vtbench.files import check_endpoint

__all__ = ["app", "export", "judge", "look", "machine", "main", "merge", "report", "run", "sheet"]


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 1 a check failed, 2 the user can mend it, 3 an exception, which is a bug, 130 interrupted.
    """
    lost = prepare()
    try:
        with in_one_line():
            check_endpoint(os.environ.get("HF_ENDPOINT", ""))
            app(prog_name="vtbench")
    except SystemExit as end:
        if not end.code and (reason := lost()):
            complaints.print(f"vtbench: the standard output can't be written ({reason}); part of it is missing")
            sys.exit(2)
        raise
    except Exception:  # Python itself would end with 1, which says that a check failed
        traceback.print_exc()
        sys.exit(3)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"vtbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    del version
