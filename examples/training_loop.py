"""Train a small VQ tokenizer for a minute, and see every so many steps how well it reconstructs and keeps text legible.

    python examples/training_loop.py     # a minute of training on one CPU thread, and as much of validation
    python examples/training_loop.py --steps 100 --every 50 --text-every 100 --text-limit 3

It writes `log.csv` with a line a step and score, and where tensorboard is installed (`pip install tensorboard`) the
same numbers for `tensorboard --logdir runs`. The validation is three lines: `validate` below.

The embedded pictures are few: the first ones are held out for validation, and it trains on crops of the others. It
shows the loop; nobody needs this tokenizer.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtbench import evaluate, load_task, wrap
from vtbench.cards import find_task
from vtbench.images import to_float
from vtbench.task import Task

HELD_OUT = 8
"""Pictures that are validated on and never trained on: the first ones of the task."""

CODES = 512

# --- the model: any nn.Module with an encode and a decode -------------------------------------------------------------


class Codebook(nn.Module):
    """Takes each vector for the nearest code, and passes its gradient straight through (van den Oord et al. 2017)."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, width) * 0.3)

    def nearest(self, z: Tensor) -> Tensor:
        """Indices (B, h, w) of the codes nearest to z (B, width, h, w)."""
        return torch.cdist(z.permute(0, 2, 3, 1).flatten(1, 2), self.codes).argmin(-1).view(len(z), *z.shape[2:])

    def vectors(self, indices: Tensor) -> Tensor:
        """The codes (B, width, h, w) of indices (B, h, w)."""
        return F.embedding(indices, self.codes).permute(0, 3, 1, 2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes in place of z, and the loss that brings the two together."""
        found = self.vectors(self.nearest(z))
        loss = F.mse_loss(found, z.detach()) + 0.25 * F.mse_loss(z, found.detach())
        return z + (found - z).detach(), loss


class Model(nn.Module):
    """A convolutional VQ: 8x8 pixels a code."""

    def __init__(self, width: int = 48, latent: int = 8) -> None:
        super().__init__()

        def block(*layers: nn.Module) -> list[nn.Module]:
            return [*layers, nn.GroupNorm(8, width), nn.SiLU()]

        self.encoder = nn.Sequential(
            *block(nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1)),
            *block(nn.Conv2d(width, width, 4, 2, 1)),
            *block(nn.Conv2d(width, width, 4, 2, 1)),
            nn.Conv2d(width, latent, 1),
        )
        self.codebook = Codebook(CODES, latent)
        self.decoder = nn.Sequential(
            *block(nn.Conv2d(latent, width, 3, padding=1)),
            *block(nn.ConvTranspose2d(width, width, 4, 2, 1)),
            *block(nn.ConvTranspose2d(width, width, 4, 2, 1)),
            nn.Conv2d(width, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction of pictures (B, 3, H, W) in [-1, 1], and the codebook's loss."""
        z, loss = self.codebook(self.encoder(x))
        return self.decoder(z), loss

    def encode(self, x: Tensor) -> Tensor:
        """One index for each 8x8 pixels."""
        return self.codebook.nearest(self.encoder(x))

    def decode(self, indices: Tensor) -> Tensor:
        """The picture of the indices alone."""
        picture: Tensor = self.decoder(self.codebook.vectors(indices))
        return picture


# --- the validation ---------------------------------------------------------------------------------------------------


def validate(model: Model, task: Task, limit: int | None = None) -> Mapping[str, float]:
    """Score the model as it is: in evaluation mode, and as before afterwards; no file is written."""
    tokenizer = wrap(model, name="small-vq", codebook_size=CODES, multiple_of=8)
    return evaluate(tokenizer, task, out=None, limit=limit).flat()


def text_task() -> Task:
    """The pages of known text, of whose metrics only the character error rate: reading is what takes time."""
    return load_task(find_task("text").model_copy(update={"metrics": ("cer",)}))


# --- the loop ---------------------------------------------------------------------------------------------------------


def crops(pictures: Tensor, size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Random crops (batch, 3, size, size) of pictures (N, 3, H, W)."""

    def draw(end: int) -> list[int]:
        found: list[int] = torch.randint(end, (batch,), generator=generator).tolist()
        return found

    height, width = pictures.shape[-2:]
    places = zip(draw(len(pictures)), draw(height - size + 1), draw(width - size + 1), strict=True)
    return torch.stack([pictures[index, :, top : top + size, left : left + size] for index, top, left in places])


def step_of(batch: int = 8, size: int = 128, seed: int = 0) -> tuple[Model, Callable[[], float]]:
    """A model, and a function that trains it for one step and gives the loss."""
    torch.manual_seed(seed)
    task = load_task("reconstruction")
    pictures = torch.stack([to_float(task.read(index).image) for index in range(HELD_OUT, len(task))])
    generator = torch.Generator().manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)

    def step() -> float:
        x = crops(pictures, size, batch, generator).to(device)
        reconstruction, loss = model(x)
        loss += F.mse_loss(reconstruction, x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return model, step


def train(
    folder: Path, *, steps: int | None, minutes: float, every: int, text_every: int, text_limit: int | None
) -> Path:
    """Train, validate and log; returns the path of the CSV file."""
    model, step = step_of()
    pictures, text = load_task("reconstruction"), text_task()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.csv"
    writer = tensorboard(folder)
    trained, count = 0.0, 0
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "name", "value"])
        while count < steps if steps is not None else trained < 60 * minutes:
            began = time.perf_counter()
            found = {"train/loss": step()}
            trained += time.perf_counter() - began  # validation is not counted
            count += 1
            if count % every == 0:
                found |= validate(model, pictures, HELD_OUT)
            if count % text_every == 0:
                found |= validate(model, text, text_limit)
            if len(found) > 1:
                for name, value in found.items():
                    rows.writerow([count, name, value])
                    if writer is not None:
                        writer.add_scalar(name, value, count)
                file.flush()
                print(f"step {count}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    if writer is not None:
        writer.close()
    return path


def tensorboard(folder: Path) -> Any:  # noqa: ANN401
    """A writer, where tensorboard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/small-vq"), help="folder of the log")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training")
    parser.add_argument("--steps", type=int, help="in place of --minutes")
    parser.add_argument("--every", type=int, default=100, help="steps between two validations")
    parser.add_argument("--text-every", type=int, default=300, help="steps between two readings of text")
    parser.add_argument("--text-limit", type=int, help="pages that are read, of 27")
    said = parser.parse_args()
    path = train(
        said.out,
        steps=said.steps,
        minutes=said.minutes,
        every=said.every,
        text_every=said.text_every,
        text_limit=said.text_limit,
    )
    print(path)


if __name__ == "__main__":
    main()
