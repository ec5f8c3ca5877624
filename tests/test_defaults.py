"""What a process sets for new tensors, their type and their device, moves no number and is left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import small_task, write_pictures
from torch import Tensor, nn

from vtbench import evaluate, load_tokenizer, wrap
from vtbench.metrics import learned
from vtbench.task import Task

METRICS = ["psnr", "lpips"]


@contextlib.contextmanager
def _set(dtype: torch.dtype, device: str) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
        assert (torch.get_default_dtype(), torch.get_default_device().type) == (dtype, device)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    write_pictures(tmp_path / "pictures", 2)
    return small_task(tmp_path / "pictures", metrics=tuple(METRICS))


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.bfloat16, "cpu"), (torch.float64, "cpu"), (torch.float32, "meta")]
)
def test_defaults_move_no_number_and_no_weights(task: Task, dtype: torch.dtype, device: str) -> None:
    wanted = evaluate(load_tokenizer("tiny", device="cpu"), task, out=None)
    learned.network.cache_clear()
    with _set(dtype, device):
        loaded = load_tokenizer("tiny", device="cpu")
        found = evaluate(loaded, task, out=None)
    plain = load_tokenizer("tiny", device="cpu").network
    assert isinstance(loaded.network, nn.Module)
    assert isinstance(plain, nn.Module)
    assert all(map(torch.equal, loaded.network.parameters(), plain.parameters()))
    later = evaluate(load_tokenizer("tiny", device="cpu"), task, out=None)
    assert {name: found.scores[name].value for name in METRICS} == {name: wanted.scores[name].value for name in METRICS}
    assert {name: later.scores[name].value for name in METRICS} == {name: wanted.scores[name].value for name in METRICS}


def test_a_live_model_finds_the_defaults_that_it_was_written_under(task: Task) -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(3, 4, 8, 8)
            self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x + torch.zeros(1, 3, 1, 1)) + torch.zeros(1, 4, 1, 1)

        def decode(self, z: Tensor) -> Tensor:
            return self.decoder(z * torch.ones(1))

    with _set(torch.bfloat16, "cpu"):
        assert evaluate(wrap(Halved(), name="halved"), task, out=None).scores["psnr"].value is not None
