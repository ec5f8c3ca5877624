"""What every test runs under: no network but this machine, one thread, no warnings let through."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that tests start: a run names its threads
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np
import pytest
import torch
from skimage import data

torch.set_num_threads(1)  # threads that share a busy core cost several times their gain


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU, so that a machine with one tests what every machine tests; `-m gpu` asks for it."""
    asked = str(config.option.markexpr)
    if "gpu" not in asked or "not gpu" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _is_here(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0])
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if not _is_here(address):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def photographs() -> torch.Tensor:
    """Four natural pictures at 256 px, uint8 (4, 3, 256, 256)."""
    from PIL import Image

    from vtbench import geometry, images

    named = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    return torch.stack([images.from_pil(geometry.resize_and_crop(Image.fromarray(np.array(p)), 256)) for p in named])


@pytest.fixture(scope="session")
def report_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/ and work/ of some tokenizers on four pictures of two tasks; three pictures kept."""
    from vtbench.cli import run

    place = tmp_path_factory.mktemp("report")
    names = ["control-identity", "tiny-fsq-f8", *(f"jpeg-q{quality}" for quality in (5, 10, 30)), "webp-q5", "webp-q30"]
    run.run(
        task=["reconstruction", "text"],
        tokenizer=names,
        limit=4,
        out=place / "results",
        work=place / "work",
        keep_pictures="worst:1",
    )
    return place
