"""Runs a workflow of GitHub's, step by step, as its runner does, where the repository and the packages are on disk.

`run` is run by the shell that the step names, with the files behind $GITHUB_OUTPUT, $GITHUB_PATH and
$GITHUB_STEP_SUMMARY. Of the actions, the one of this checkout is run by its own steps; those of GitHub's that bring
a checkout, a Python, a cache and an upload are done here in a few lines. Anything else of the language is refused.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Step = dict[str, Any]


@dataclass
class Done:
    """One step that was run."""

    name: str
    code: int
    output: str


@dataclass
class Runner:
    """A machine that runs jobs, one after the other: only what is cached outlives a job."""

    home: Path
    """An empty folder."""
    repository: Path
    """What is checked out."""
    actions: dict[str, Path]
    """Where actions that are run by their steps lie, by owner and name."""
    environment: dict[str, str]
    cached: dict[str, list[Path]] = field(default_factory=dict)
    uploaded: dict[str, Path] = field(default_factory=dict)
    """What the last job uploaded, by the path that its workflow names."""
    summary: str = ""
    """Of the last job."""

    def job(self, workflow: Path, change: str | None = None) -> list[Done]:
        """Run the one job of a workflow, from a fresh folder; `change` is what a commit did before, in bash."""
        for name in ("work", "temp", "bin"):
            shutil.rmtree(self.home / name, ignore_errors=True)
            (self.home / name).mkdir(parents=True)
        python = self.home / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        self.uploaded, self.path = {}, [str(self.home / "bin")]
        (self.home / "temp" / "summary").touch()
        self.contexts: dict[str, str] = {
            "runner.temp": str(self.home / "temp"),
            "runner.os": platform.system(),
            "runner.arch": platform.machine(),
        }
        shutil.copytree(self.repository, self.home / "work", dirs_exist_ok=True)
        if change:
            subprocess.run(["bash", "-euc", change], cwd=self.home / "work", check=True, capture_output=True)
        (job,) = yaml.safe_load((self.repository / workflow).read_text())["jobs"].values()
        done = self._steps(job["steps"], {})
        self.summary = (self.home / "temp" / "summary").read_text()
        return done

    def _steps(self, steps: list[Step], inputs: dict[str, str]) -> list[Done]:
        done: list[Done] = []
        for step in steps:
            failed = any(one.code for one in done)
            condition = str(step.get("if", ""))
            wanted = condition == "always()" or (not failed and self._holds(condition, inputs))
            if not wanted:
                continue
            if "uses" in step:
                done += self._use(step, inputs)
            else:
                done.append(self._run(step, inputs))
        return done

    def _run(self, step: Step, inputs: dict[str, str]) -> Done:
        assert step.get("shell", "bash") == "bash", step
        said = {name: self.home / "temp" / name for name in ("output", "path")}
        for file in said.values():
            file.write_text("")
        command = self._filled(step["run"], inputs)
        own = {key: self._filled(value, inputs) for key, value in step.get("env", {}).items()}
        process = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
            cwd=self.home / "work",
            env={
                **os.environ,
                **self.environment,
                "PATH": os.pathsep.join([*self.path, os.environ["PATH"]]),
                "GITHUB_ACTIONS": "true",
                "GITHUB_OUTPUT": str(said["output"]),
                "GITHUB_PATH": str(said["path"]),
                "GITHUB_STEP_SUMMARY": str(self.home / "temp" / "summary"),
                "RUNNER_TEMP": self.contexts["runner.temp"],
                **own,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.path = said["path"].read_text().splitlines() + self.path
        if "id" in step:
            for line in said["output"].read_text().splitlines():
                name, _, value = line.partition("=")
                self.contexts[f"steps.{step['id']}.outputs.{name}"] = value
        return Done(command, process.returncode, process.stdout)

    def _use(self, step: Step, inputs: dict[str, str]) -> list[Done]:
        action = step["uses"].partition("@")[0]
        given = {key: self._filled(str(value), inputs) for key, value in step.get("with", {}).items()}
        outputs: dict[str, str] = {}
        if action in self.actions:
            place = self.actions[action]
            described = yaml.safe_load((place / "action.yml").read_text())
            assert described["runs"]["using"] == "composite"
            assert given.keys() <= described["inputs"].keys(), "an input that the action does not have"
            missing = {key for key, one in described["inputs"].items() if one.get("required") and key not in given}
            assert not missing, missing
            own = {key: str(one.get("default", "")) for key, one in described["inputs"].items()} | given
            self.contexts["github.action_path"] = str(place)
            return self._steps(described["runs"]["steps"], own)
        if action == "actions/setup-python":
            outputs["python-version"] = platform.python_version()
        elif action == "actions/cache/restore":
            outputs["cache-hit"] = str(self._restored(given["key"])).lower()
        elif action == "actions/cache/save":
            self._save(given["key"], given["path"].split())
        elif action == "actions/upload-artifact":
            found = {path: self.home / "work" / path for path in given["path"].split()}
            self.uploaded = {path: place for path, place in found.items() if place.exists()}
        else:
            assert action == "actions/checkout", action
        self.contexts |= {
            f"steps.{step['id']}.outputs.{name}": value for name, value in outputs.items() if "id" in step
        }
        return [Done(action, 0, "")]

    def _save(self, key: str, paths: list[str]) -> None:
        """Keep what lies in the runner's folder; what lies in the user's home is that of this machine, and stays."""
        own = [Path(path) for path in paths if not path.startswith("~")]
        for path in own:
            shutil.copytree(path, self.home / "cache" / key / path.name, symlinks=True)
        self.cached[key] = own

    def _restored(self, key: str) -> bool:
        for path in self.cached.get(key, []):
            shutil.copytree(self.home / "cache" / key / path.name, path, symlinks=True)
        return key in self.cached

    def _filled(self, text: str, inputs: dict[str, str]) -> str:
        return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda one: self._value(one[1], inputs), text)

    def _value(self, name: str, inputs: dict[str, str]) -> str:
        kind, _, own = name.partition(".")
        if kind == "inputs":
            return inputs[own]
        return self.contexts.get(name, "") if kind == "steps" else self.contexts[name]

    def _holds(self, condition: str, inputs: dict[str, str]) -> bool:
        for part in filter(None, condition.split(" && ")):
            one = re.fullmatch(r"([\w.-]+) != '([\w.-]*)'", part)
            assert one, f"a condition that is not understood here: {part}"
            if self._value(one[1], inputs) == one[2]:
                return False
        return True
