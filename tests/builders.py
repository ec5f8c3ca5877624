"""What several tests build: a run, a folder of pictures, a small task over it, an Inception network."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vtbench import weights
from vtbench.cards import Data, Geometry, TaskCard
from vtbench.results import Run, Score
from vtbench.task import Task, load_task

SIDE = 64


def make_run(tokenizer: str = "jpeg-q5", task: str = "reconstruction", **change: object) -> Run:
    said: dict[str, object] = {
        "tokenizer": tokenizer,
        "family": "jpeg",
        "kind": "codec",
        "task": task,
        "task_family": "reconstruction",
        "task_version": 1,
        "protocol": "canonical",
        "primary": "lpips",
        "scores": {
            "psnr": Score(value=24.5, scored=32, expected=32),
            "lpips": Score(value=0.3, scored=32, expected=32),
            "rfid": Score(value=None, reason="inception is not here", scored=0, expected=32),
        },
        "parameters": 0,
        "images": 32,
        "pictures": {"found": 32, "scored": 32, "failed": 0},
        "weights": "none",
        "digests": {name: name[0] * 64 for name in ("tokenizer", "task", "data", "code", "plan", "table")},
        "version": "0.1.0",
        "commit": None,
        "dirty": None,
        "versions": {"torch": "2.14.1"},
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 8,
        "timing": {
            "encode_per_second": 10.0,
            "decode_per_second": 20.0,
            "seconds": 3.0,
            "started": "2026-01-01T00:00:00",
        },
    }
    return Run.model_validate(said | change)


def write_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE + index, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    return folder


def small_task(path: Path, *, native: bool = False, **change: object) -> Task:
    said: dict[str, object] = {
        "name": "small",
        "version": 1,
        "family": "reconstruction",
        "title": "Small",
        "data": Data(source="folder"),
        "geometry": Geometry(size=SIDE),
        "metrics": ("psnr", "ssim"),
        "primary": "psnr",
    }
    return load_task(TaskCard.model_validate(said | change), data=path, native=native)


def inception_state() -> dict[str, torch.Tensor]:
    """Made-up weights of FID's Inception network with which the features neither die nor explode."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: object, strict: bool = True, assign: bool = False) -> None:
            """Keep what is there: only the names and shapes are wanted."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.device("meta"):
        shapes = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    found = {}
    for name, tensor in shapes.items():
        if tensor.is_floating_point():
            gain = math.sqrt(2) if tensor.ndim == 4 else 1.0
            found[name] = torch.from_numpy(weights.fill_values(name, tuple(tensor.shape)) * np.float32(gain))
        else:
            found[name] = torch.zeros((), dtype=torch.int64)
    return found
