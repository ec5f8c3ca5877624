from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

import vtbench
from vtbench import provenance

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vtbench"

LAYERS = [
    {"errors", "types"},
    {"files", "folders", "cards", "catalogue", "protocols", "statistics", "results", "signs"},
    {"device"},
    {"images", "pictures", "geometry", "checkpoints", "states", "weights", "fingerprint", "snapshot", "backbones"},
    {"networks", "metrics", "ocr", "data"},
    {"measures", "bottleneck", "published", "scoring", "tokenizer", "live", "task", "needs"},
    {"settings", "team", "plan", "provenance"},
    {"summary", "passes", "shards", "finished", "workfolder", "engine", "kept"},
    {"rates", "leaderboard", "comparison", "gate", "validation", "export", "sheet"},
    {"report"},
    {"cli", "__main__"},
]
MAY_SHARE_A_LAYER = {0, 1, 3, 5, 6, 7, 8, 10}
"""Single modules beside each other; the packages and what stands above them may not import their neighbours."""


def layer_of(module: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if module in names)


def imports_of(path: Path) -> set[str]:
    """Names of vtbench's own modules that a file imports at its top level or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vtbench":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("vtbench."):
            found.add(node.module.split(".")[1])
    return {name for name in found if any(name in names for names in LAYERS)}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(PACKAGE).as_posix() for path in FILES])
def test_a_module_imports_only_lower_layers(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    level = layer_of(own)
    for name in imports_of(path) - {own}:
        below = layer_of(name) < level or (level in MAY_SHARE_A_LAYER and layer_of(name) == level)
        assert below, f"{own} (layer {level}) imports {name} (layer {layer_of(name)})"


def test_what_stands_above_the_engine_is_no_part_of_a_runs_code() -> None:
    above = [name for level in LAYERS[layer_of("engine") + 1 :] for name in level]
    assert {Path(name).stem for name in provenance.SHOWING} == set(above)
    assert all((PACKAGE / name).exists() for name in provenance.SHOWING)


def test_a_runs_code_is_what_can_move_a_number(tmp_path: Path) -> None:
    for name in ("metrics", "report"):
        (tmp_path / name).mkdir()
    files = [tmp_path / name for name in ("metrics/pixels.py", "engine.py", "report/page.py", "gate.py")]
    digests = []
    for path in [None, *files]:
        if path is not None:
            path.write_text("changed = True\n")
        digests.append(provenance.code_digest.__wrapped__(tmp_path))
    empty, metric, engine, report, gate = digests
    assert len({empty, metric, engine}) == 3
    assert engine == report == gate


def test_range_arithmetic_lives_in_images_alone() -> None:
    """Three of the bugs that this suite was made against are range bugs. Charts are drawn in levels, so data/ may."""
    allowed = {"images.py"}
    for path in FILES:
        if path.name in allowed or path.parent.name == "data":
            continue
        code = "\n".join(line.split("#")[0] for line in path.read_text().splitlines())
        assert not re.search(r"/ 255(\.0)?\b(?!\*)|127\.5", re.sub(r'""".*?"""', "", code, flags=re.DOTALL)), path


def test_public_names_are_what_the_package_says() -> None:
    assert (
        sorted(vtbench.__all__) == vtbench.__all__ == ["evaluate", "load_task", "load_tokenizer", "read_runs", "wrap"]
    )
    for name in vtbench.__all__:
        assert getattr(vtbench, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vtbench.nothing


def test_changelog_knows_this_version() -> None:
    assert f"## {vtbench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_module_has_a_docstring() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_networks_name_their_source() -> None:
    """A network that follows somebody's publication says whose, at which commit, under which licence."""
    from vtbench import cards

    for card in cards.tokenizers().values():
        if card.source is None:
            continue
        said = ast.get_docstring(ast.parse((PACKAGE / "networks" / f"{card.network}.py").read_text())) or ""
        assert card.source.repository in said, card.network
        assert card.source.commit[:7] in said, card.network
        assert card.source.license in said, card.network


def test_imports_of_the_package_have_no_side_effects(tmp_path: Path) -> None:
    """Importing every module writes nothing into the home folder."""
    names = [f"vtbench.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}" for path in FILES]
    names = [name.removesuffix(".__init__") for name in names]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    import sys

    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=home)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    importlib.invalidate_caches()
