"""Run benchmarks, and put what each prints into its section of RESULTS.md, with machine, versions and date.

    python benchmarks/record.py NAME [ARGUMENT...]

What a benchmark printed replaces what stood in its section; the other sections stay.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
HEAD = "# What the benchmarks printed\n\nEach ratio is of one run: compare ratios, not seconds of different machines.\n"
VERSIONS = ("torch", "torchvision", "numpy", "lpips", "pillow")


def machine() -> str:
    """Say what was measured on."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if sys.platform == "linux" else []
    cores = f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"
    return f"{cores}, Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in VERSIONS)}"


def main() -> None:
    """Run one and record it."""
    if len(sys.argv) < 2 or not (HERE / f"{sys.argv[1]}.py").is_file():
        sys.exit(f"{__doc__}\nNAME is one of {', '.join(sorted(path.stem for path in HERE.glob('*.py')))}")
    name, *said = sys.argv[1:]
    before = os.getloadavg()[0]
    lines = []
    with subprocess.Popen([sys.executable, str(HERE / f"{name}.py"), *said], stdout=subprocess.PIPE, text=True) as made:
        for line in made.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if made.returncode:
        sys.exit(made.returncode)
    date = datetime.datetime.now(datetime.UTC).date()
    called = " ".join(["python", f"benchmarks/{name}.py", *said])
    head = f"{name}\n\n`{called}`, {date}, load before it {before:.1f}; {machine()}"
    text = RESULTS.read_text() if RESULTS.exists() else HEAD
    kept = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}
    printed = "\n".join(f"    {line}".rstrip() for line in lines)
    kept[name] = f"{head}\n\n{printed}\n"
    RESULTS.write_text("\n".join([HEAD, *(f"## {kept[one].rstrip()}\n" for one in sorted(kept))]))


if __name__ == "__main__":
    main()
