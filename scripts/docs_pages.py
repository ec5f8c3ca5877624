"""Takes the repository's own Markdown files into the site: mkdocs calls the functions `on_…` while it builds.

mkdocs reads one folder; README.md and its like lie where a reader of the repository looks for them. They are taken in
from there, and links between files become links between pages. What is no page (a folder, a program) is linked
in the repository. A link to a file that isn't there is a warning, which ends a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "tasks/README.md": "tasks.md",
    "tokenizers/README.md": "tokenizers.md",
    "training/README.md": "training.md",
    "examples/plugin/README.md": "plugin.md",
    "examples/ci/README.md": "gate.md",
    "results/LEADERBOARD.md": "leaderboard.md",
    "results/contact-sheet.webp": "contact-sheet.webp",
    "results/report.png": "report.png",
    "results/rate-distortion.svg": "rate-distortion.svg",
}
"""Files outside of docs/ that the site has, and what they are called there."""

LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
"""The address of a Markdown link to a file: no web address, no anchor of the same page."""

FENCE = re.compile(r"(^ *```.*?^ *```)", flags=re.DOTALL | re.MULTILINE)

log = logging.getLogger("mkdocs.hooks.docs_pages")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files that lie elsewhere."""
    from mkdocs.structure.files import File

    for own, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / own)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files into links between pages."""
    page_file = page.file.src_uri
    own = next((path for path, name in PAGES.items() if name == page_file), f"docs/{page_file}")

    def turned(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), match[0]))
        if not (ROOT / target).exists():
            log.warning("%s links to %s, which is not there", own, target)
            return match[0]
        name = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(name) is None:
            return f"{config.repo_url}/blob/main/{target}"
        return posixpath.relpath(name, posixpath.dirname(page_file) or ".")

    parts = FENCE.split(markdown)  # every second one is a block of code
    return "".join(part if index % 2 else LINK.sub(turned, part) for index, part in enumerate(parts))
