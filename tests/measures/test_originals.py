from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vtbench.measures._originals import Originals, make_room


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Computed:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def array(self) -> np.ndarray:
        self.times += 1
        return np.arange(6, dtype=np.float32).reshape(2, 3) / 7

    def texts(self, pictures: list[torch.Tensor], boxes: list[object]) -> list[list[str]]:
        self.times += 1
        return [[str(int(picture.sum())), str(own)] for picture, own in zip(pictures, boxes, strict=True)]


def test_what_is_kept_is_bit_equal_and_computed_once(tmp_path: Path) -> None:
    computed = Computed()
    first = Originals(tmp_path, "features", "inception", "cpu").arrays(pictures(), computed.array)
    again = Originals(tmp_path, "features", "inception", "cpu").arrays(pictures(), computed.array)
    assert computed.times == 1
    assert first.tobytes() == again.tobytes()


def test_readings_are_computed_together_and_only_those_that_lack(tmp_path: Path) -> None:
    computed = Computed()
    asked = [(picture, boxes) for picture in pictures() for boxes in (None, [(0, 0, 1, 1)])]
    expected = [[str(int(picture.sum())), str(boxes)] for picture, boxes in asked]
    kept = Originals(tmp_path, "readings", "engine")
    assert kept.many_texts(asked[:1], computed.texts) == expected[:1] and computed.times == 1
    assert kept.many_texts([*asked, asked[1]], computed.texts) == [*expected, expected[1]] and computed.times == 2
    again = Originals(tmp_path, "readings", "engine")
    assert again.many_texts(asked[::-1], computed.texts) == expected[::-1] and computed.times == 2


@pytest.mark.parametrize("other", ["pictures", "said", "kind"])
def test_nothing_is_shared_by_what_differs(other: str, tmp_path: Path) -> None:
    computed = Computed()
    Originals(tmp_path, "features", "inception", "cpu").arrays(pictures(), computed.array)
    kind, said = ("logits" if other == "kind" else "features"), ("cuda" if other == "said" else "cpu")
    seen = pictures(1) if other == "pictures" else pictures()
    Originals(tmp_path, kind, "inception", said).arrays(seen, computed.array)
    assert computed.times == 2


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"{"])
def test_damaged_files_are_computed_again(content: bytes, tmp_path: Path) -> None:
    computed = Computed()
    kept = Originals(tmp_path, "features", "inception")
    kept.arrays(pictures(), computed.array)
    (file,) = tmp_path.rglob("*.npy")
    file.write_bytes(content)
    assert kept.arrays(pictures(), computed.array).shape == (2, 3)
    assert computed.times == 2
    assert len(file.read_bytes()) > 100


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    computed = Computed()
    Originals(None, "features").arrays(pictures(), computed.array)
    assert not list(tmp_path.iterdir())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "middle", "old"]):
        path = tmp_path / "features-x" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    make_room(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["middle", "new"]
