"""What was computed of originals alone, kept on this machine: it is the same for every tokenizer.

Kept are OCR readings and the features of networks, by the pictures' content and all that computes. The folder is
bounded; what was used longest ago goes first. `vtbench cache` shows and empties it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from vtbench import files
from vtbench.errors import ResultError

T = TypeVar("T")

Features = np.ndarray[Any, Any] | Tensor

LIMIT = 4 * 2**30
"""Bytes that the folder may hold."""

_LOOK = 512
"""How many files are written between two looks at the size of all."""


class Originals:
    """Keeps one kind of thing that is computed of originals; in memory where it is given no folder."""

    def __init__(self, folder: Path | None, kind: str, *said: object, limit: int = LIMIT) -> None:
        """Bind a place.

        Args:
            folder: of all kinds together; None keeps nothing on disk.
            kind: readings, features, …
            said: all that moves the values beside the pictures.
            limit: bytes that `folder` may hold.
        """
        by = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self._root, self._limit = folder, limit
        self._folder = folder / f"{kind}-{by}" if folder else None
        self._texts: dict[str, list[str]] = {}
        self._written = 0

    def many_texts(
        self,
        asked: Sequence[tuple[Tensor, Any]],
        compute: Callable[[list[Tensor], list[Any]], list[list[str]]],
    ) -> list[list[str]]:
        """Give what was read on pictures, uint8 (3, H, W), each within its boxes; those not known are read together."""
        keys = [_key(picture, boxes) for picture, boxes in asked]
        for key in dict.fromkeys(keys):
            if key not in self._texts and (kept := self._get(f"{key}.json", _texts)) is not None:
                self._texts[key] = kept
        lacking = {key: one for key, one in zip(keys, asked, strict=True) if key not in self._texts}
        if lacking:
            found = compute([picture for picture, _ in lacking.values()], [boxes for _, boxes in lacking.values()])
            for key, read in zip(lacking, found, strict=True):
                self._put(f"{key}.json", json.dumps(read).encode())
                self._texts[key] = read
        return [self._texts[key] for key in keys]

    def arrays(self, pictures: Tensor, compute: Callable[[], Features]) -> Features:
        """Give the features, (B, d), of pictures (B, 3, H, W); as they were computed where nothing is kept.

        They are kept by batch: in another batch the last bits of a feature may be others.
        """
        if self._folder is None:
            return compute()
        name = f"{_key(pictures, None)}.npy"
        found = self._get(name, _array)
        if found is None or len(found) != len(pictures):
            made = compute()
            found = made.cpu().numpy() if isinstance(made, Tensor) else made
            content = io.BytesIO()
            np.save(content, found, allow_pickle=False)
            self._put(name, content.getvalue())
        return found

    def _get(self, name: str, parse: Callable[[bytes], T | None]) -> T | None:
        """Read what was kept; None where nothing was, or it is damaged."""
        if self._folder is None:
            return None
        try:
            found = parse((self._folder / name).read_bytes())
            os.utime(self._folder / name)
        except (OSError, ValueError, EOFError):
            return None
        return found

    def _put(self, name: str, content: bytes) -> None:
        if self._folder is None or self._root is None:
            return
        if self._written % _LOOK == 0:
            make_room(self._root, self._limit)
        self._written += 1
        with contextlib.suppress(ResultError):  # a full disk is told by the shards; here it costs time alone
            files.write_atomic(self._folder / name, content)


def make_room(folder: Path, limit: int) -> None:
    """Delete what was used longest ago, until the rest fits."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process deletes as well
            if path.is_file():
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
    size = sum(one for _, one, _ in found)
    for _, own, path in sorted(found):
        if size <= limit:
            return
        path.unlink(missing_ok=True)
        size -= own


def _key(pictures: Tensor, said: object) -> str:
    content = pictures.detach().cpu().contiguous().numpy()
    shape = json.dumps([said, list(content.shape), str(content.dtype)])
    return hashlib.sha256(shape.encode() + content.tobytes()).hexdigest()


def _texts(content: bytes) -> list[str] | None:
    found = json.loads(content)
    return found if isinstance(found, list) and all(isinstance(part, str) for part in found) else None


def _array(content: bytes) -> np.ndarray[Any, Any] | None:
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return found
