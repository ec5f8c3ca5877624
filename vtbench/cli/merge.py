"""Merging: `vtbench merge`, for runs whose shards several jobs computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import ValidationError

from vtbench import finished, results
from vtbench.cards import explain
from vtbench.cli._chosen import Command
from vtbench.cli._terminal import WorkOption, app, complaints, console, one_line
from vtbench.cli._work import Place, perform
from vtbench.errors import ResultError, VtbenchError


class Begun(NamedTuple):
    """A run that was begun, and is not merged or has no summary yet."""

    name: str
    command: Command
    lacking: int
    shards: int
    beside: str
    """What is said of shards of other plans; empty where there are none."""


@app.command()
def merge(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="TASK/NAME under the work folder; all where left out."),
    ] = None,
    work: WorkOption = Path(".vtbench"),
    out: Annotated[Path, typer.Option(help="Summaries.")] = Path("results"),
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a process that writes the same run.")] = 600,
) -> None:
    """Merge what array jobs (`vtbench run --shards I/N`) computed; computes no picture itself.

    Needs what the run needed (weights, pictures, a device of the same kind), for only that proves that the shards are
    what would be computed here.
    """
    failed = False
    merged = True
    for name in runs or _all(work):
        try:
            one = _begun(work, name, out)
            if one is None:
                if runs:
                    console.print(f"{name}: is merged already", soft_wrap=True)
                continue
            merged = False
            if one.lacking:
                raise ResultError(
                    f"{one.name}: {one.lacking} of {one.shards} shards are not there; "
                    f"start the jobs again that compute them{one.beside}"
                )
            failed |= perform(one.command, Place(out, work, wait=wait, may_compute=False)) != 0
        except VtbenchError as error:
            complaints.print(f"vtbench: {one_line(error)}")
            failed = True
    if merged and not failed and not runs:
        console.print(f"nothing to merge in {work}: every run there is merged", soft_wrap=True)
    if failed:
        raise typer.Exit(2)


def _all(work: Path) -> Sequence[str]:
    """Name every run that was begun in a work folder."""
    found = [f"{path.parent.parent.name}/{path.parent.name}" for path in sorted(work.glob(f"*/*/{finished.BEGUN}"))]
    if not found:
        raise ResultError(f"{work}: no run was begun there; --work names the folder that the jobs were given")
    return found


def _begun(work: Path, name: str, out: Path) -> Begun | None:
    """Read what a run left when it began; None where it is merged and its summary written.

    Raises:
        ResultError: if nothing was begun there, or not by `vtbench run`.
    """
    folder = work / name
    path = folder / finished.BEGUN
    try:
        said = json.loads(path.read_bytes())
        digest, shards = str(said["plan"]), int(said["shards"])
        merged = _plan_of(folder / results.RUN) == digest
        if merged and _plan_of(out / f"{name}.json") == digest:
            return None
        if said["command"] is None:
            raise ResultError(f"{folder}: was begun from Python; call `evaluate` again, which merges")
        command = Command.model_validate_json(json.dumps(said["command"] | {"protocol": [said["protocol"]]}))
    except OSError as error:
        raise ResultError(f"{path}: can't be read ({error.strerror}); no run was begun there") from error
    except ValidationError as error:
        raise ResultError(f"{path}: of another version of vtbench ({explain(error)[:200]}); run it again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path}: damaged; start the command again that made it") from error
    there = {file.stem for file in finished.shards_of(folder, digest).glob("*.parquet")}
    lacking = 0 if merged else sum(f"{index:05d}" not in there for index in range(shards))
    beside = finished.beside(folder, digest, finished.identity_of(folder, digest))
    return Begun(name, command, lacking, shards, beside)


def _plan_of(path: Path) -> str | None:
    try:
        return results.read_run(path).digests.get("plan")
    except ResultError:
        return None
