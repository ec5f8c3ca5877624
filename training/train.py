"""Train a tiny FSQ tokenizer on the pictures of training/pool and on pictures rendered here.

    vtbench fetch lpips
    python training/pool.py
    python training/train.py tiny-fsq-f8

The schedule runs by wall time: the learning rate follows a cosine that reaches zero when `--minutes` are over, on a
fast machine and on a slow one. A stopped run goes on from its checkpoint when it is started again.
"""

from __future__ import annotations

import argparse
import colorsys
import csv
import json
import math
import random
import string
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from vtbench import backbones, geometry, images, metrics, weights
from vtbench.networks.tiny_fsq import Config, Network

HERE = Path(__file__).resolve().parent
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """One tokenizer: its network and how it is trained."""

    config: Config
    crop: int
    batch: int
    muon_rate: float = 0.02
    """Learning rate of the convolutions between hidden maps."""
    weight_decay: float = 0.01
    adam_rate: float = 1.5e-3
    """Learning rate of everything else: the linear paths, the first and last convolutions, the biases."""
    ema: float = 0.999
    ssim: float = 0.05
    """Weight of 1 - SSIM beside the root mean square error of a crop in [-1, 1]."""
    lpips: float = 0.15
    """Weight of LPIPS (AlexNet), once it has been phased in."""
    lpips_from: tuple[float, float] = (0.2, 0.3)
    """The fractions of the run between which the LPIPS weight grows from zero to its value."""
    sides: tuple[int, ...] = (208, 256, 320, 420, 560, 760, 1024)
    """Short sides that a picture is shrunk to (never enlarged)."""
    side_weights: tuple[float, ...] = (1.0, 2.0, 1.2, 0.9, 0.6, 0.4, 0.3)
    rendered: float = 0.15
    """Share of crops from rendered pictures."""


RECIPES = {
    "tiny-fsq-f8": Recipe(
        Config(levels=(7, 5, 5, 5, 5), widths=(64, 128), encoder_depths=(1, 1), decoder_depths=(2, 4)),
        crop=96,
        batch=8,
    ),
    "tiny-fsq-f16": Recipe(
        Config(levels=(8, 8, 8, 5, 5, 5), widths=(48, 96, 128), encoder_depths=(1, 1, 1), decoder_depths=(2, 2, 2)),
        crop=128,
        batch=5,
        muon_rate=0.015,
        lpips=0.2,
    ),
}


# ---------------------------------------------------------------- pictures


def shrink(picture: Image.Image, side: int) -> Picture:
    """RGB pixels with the short side shrunk to `side`."""
    scale = side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))


@dataclass
class Pool:
    """The pictures of training/pool.csv, at several sizes, and rendered ones; and the held-out ones at 256 px."""

    photos: list[dict[int, Picture]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    rendered: list[Picture] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)


def load_pool(folder: Path, recipe: Recipe, rendered: int, seed: int) -> Pool:
    """Read the pool and render `rendered` pictures."""
    pool = Pool()
    with (HERE / "pool.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        picture: Image.Image = Image.open(folder / row["file"]).convert("RGB")
        short = min(picture.size)
        if row["split"] == "validation":
            pool.held_out.append(images.from_pil(geometry.resize_and_crop(picture, 256)))
            continue
        sides = [side for side in recipe.sides if side <= short] or [short]
        pool.photos.append({side: shrink(picture, side) for side in sides})
        grey = np.asarray(Image.fromarray(pool.photos[-1][sides[0]]).convert("L"), dtype=np.float32)
        detail = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())
        # Detailed pictures are drawn more often, and so are large ones, which hold more different crops.
        pool.weights.append(
            min(detail, 25.0) * (1 + 0.5 * math.log2(short / 256)) if short > 256 else min(detail, 25.0)
        )
    rng = random.Random(seed)
    fonts = sorted((folder / "packages").glob("fonts-*/usr/share/fonts/**/*.ttf"))
    fonts = [font for font in fonts if not any(word in font.name for word in ("Hairline", "Thin"))]
    pool.rendered = [render(rng, fonts) for _ in range(rendered)]
    return pool


def words(rng: random.Random, count: int) -> str:
    """Random words and numbers: no real text, so no tokenizer learns a language's frequent words by heart."""
    parts = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.12:
            parts.append(f"{rng.randrange(10 ** rng.randint(1, 5)) / rng.choice([1, 1, 10, 100]):,}")
        else:
            word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 10)))
            parts.append(word.upper() if kind < 0.2 else word.capitalize() if kind < 0.45 else word)
            if rng.random() < 0.12:
                parts[-1] += rng.choice(".,;:!?-)%")
    return " ".join(parts)


def colour(rng: random.Random, low: float = 0.0, high: float = 1.0) -> tuple[int, int, int]:
    """A random colour whose lightness lies between `low` and `high`."""
    red, green, blue = colorsys.hls_to_rgb(rng.random(), rng.uniform(low, high), rng.random() ** 1.5)
    return round(255 * red), round(255 * green), round(255 * blue)


def render(rng: random.Random, fonts: list[Path]) -> Picture:
    """One 384x384 picture: a page of text, a user interface, a chart, or a smooth or noisy texture."""
    side = 384
    kind = rng.choices(["text", "interface", "chart", "texture"], [5, 2, 2, 3])[0]
    if kind == "texture":
        noise = np.zeros((side, side, 3), np.float32)
        for _ in range(rng.randint(1, 4)):
            cells = int(2 ** rng.uniform(1, 7.5))
            layer = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (cells, cells, 3)).astype(np.uint8)
            if rng.random() < 0.6:
                layer[:] = layer[..., :1]
            method = rng.choice([Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST])
            noise += rng.uniform(0.1, 1) * (np.asarray(Image.fromarray(layer).resize((side, side), method)) - 127.5)
        y, x = np.mgrid[0:side, 0:side] / side
        ramp = rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y
        base = np.array(colour(rng, 0.2, 0.8)) + ramp[..., None] * np.array([rng.uniform(-150, 150) for _ in range(3)])
        texture: Picture = np.clip(base + rng.choice([0, 0.1, 0.3, 0.7]) * noise, 0, 255).astype(np.uint8)
        return texture
    dark = rng.random() < 0.3
    paper = colour(rng, 0.0, 0.25) if dark else (255, 255, 255) if rng.random() < 0.4 else colour(rng, 0.8, 1.0)
    picture = Image.new("RGB", (side, side), paper)
    draw = ImageDraw.Draw(picture)

    def ink() -> tuple[int, int, int]:
        return colour(rng, 0.75, 1.0) if dark else (0, 0, 0) if rng.random() < 0.4 else colour(rng, 0.0, 0.35)

    def line(x: float, y: float, size: float, count: int) -> None:
        draw.text((x, y), words(rng, count), ink(), ImageFont.truetype(rng.choice(fonts), size))

    if kind == "text":
        y = rng.uniform(0, 20)
        size = 2 ** rng.uniform(3, 5.6)
        while y < side:
            if rng.random() < 0.15:
                size = 2 ** rng.uniform(3, 5.6)
            line(rng.uniform(2, 20), y, size, 16)
            y += size * rng.uniform(1.1, 1.6)
    elif kind == "interface":
        for _ in range(rng.randint(6, 20)):
            left, top = rng.uniform(-40, side), rng.uniform(-40, side)
            box = (left, top, left + 2 ** rng.uniform(4, 8), top + 2 ** rng.uniform(4, 7))
            shape = rng.choice([draw.rectangle, draw.ellipse])
            if rng.random() < 0.6:
                draw.rounded_rectangle(box, rng.uniform(0, 12), colour(rng), ink() if rng.random() < 0.5 else None)
            else:
                shape(box, colour(rng), ink() if rng.random() < 0.5 else None)
            line(left + 5, top + 5, 2 ** rng.uniform(3, 4.5), 2)
    else:
        for step in range(0, side, rng.randint(24, 64)):
            draw.line((0, step, side, step), colour(rng, 0.3, 0.8) if rng.random() < 0.1 else (190, 190, 190))
        for _ in range(rng.randint(1, 4)):
            values = np.cumsum(np.random.default_rng(rng.randrange(2**32)).normal(0, 14, 40)) + rng.uniform(80, 300)
            points = [(side * i / 39, float(v)) for i, v in enumerate(values)]
            if rng.random() < 0.5:
                draw.line(points, colour(rng), rng.randint(1, 4))
            else:
                fill = colour(rng)
                for px, py in points[:: rng.randint(1, 3)]:
                    draw.rectangle((px, min(py, side - 21), px + 6, side - 20), fill)
        for _ in range(rng.randint(3, 8)):
            line(rng.uniform(0, side * 0.7), rng.uniform(0, side), 2 ** rng.uniform(3, 4.2), 3)
    if rng.random() < 0.15:
        picture = picture.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=paper)
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
    return np.asarray(picture)


def crops(pool: Pool, recipe: Recipe, rng: random.Random) -> Tensor:
    """One batch (B, 3, crop, crop) in [-1, 1], augmented."""
    size = recipe.crop
    batch = np.empty((recipe.batch, size, size, 3), np.uint8)
    for i in range(recipe.batch):
        if rng.random() < recipe.rendered:
            source = rng.choice(pool.rendered)
        else:
            sides = rng.choices(pool.photos, pool.weights)[0]
            source = sides[rng.choices(list(sides), recipe.side_weights[: len(sides)])[0]]
        best, best_detail = source, -1.0
        for _ in range(2 if rng.random() < 0.5 else 1):  # half of the crops: the more detailed one of two
            top, left = rng.randint(0, source.shape[0] - size), rng.randint(0, source.shape[1] - size)
            crop = source[top : top + size, left : left + size]
            detail = float(np.abs(np.diff(crop[::2, ::2, 1].astype(np.int16), axis=1)).mean())
            if detail > best_detail:
                best, best_detail = crop, detail
        if rng.random() < 0.5:
            best = best[:, ::-1]
        if rng.random() < 0.2:
            best = best.transpose(1, 0, 2)
        batch[i] = best
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
    for i in range(recipe.batch):
        if rng.random() < 0.1:
            x[i] = x[i].mean(0, keepdim=True)  # a grey picture
        elif rng.random() < 0.15:
            x[i] = x[i][rng.sample(range(3), 3)]  # other colours than the pool's many blue skies
        if rng.random() < 0.3:
            x[i] = x[i] * rng.uniform(0.6, 1.2) + rng.uniform(-0.2, 0.2)
    return x.clamp_(-1, 1).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------- losses


def load_lpips() -> nn.Module:
    """LPIPS 0.1 with AlexNet, as a loss: vtbench's own metric takes 8-bit pictures and has no gradient.

    Raises:
        WeightsError: if the backbone is not on this machine, with the command that brings it.
    """
    state = weights.read(backbones.require("lpips-alex"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision's constructors in an old way
        network: nn.Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    backbone: Any = network.net
    own = backbone.state_dict()  # slice2.3.weight: the number is that of torchvision's `features`
    backbone.load_state_dict({name: state["features." + name.split(".", 1)[1]] for name in own})
    return network.eval().requires_grad_(False)


def likeness(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of two batches in [-1, 1], one value a picture: 8x8 box windows, stride 4, as a cheap stand-in."""

    def pool(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, 8, 4)

    mx, my = pool(x), pool(y)
    vx, vy, cov = pool(x * x) - mx * mx, pool(y * y) - my * my, pool(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    value = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return value.mean((1, 2, 3))


# ---------------------------------------------------------------- optimiser


def as_matrices(kernels: list[nn.Parameter]) -> list[nn.Parameter]:
    """Convolution kernels, channels last, as matrices (out, 3 * 3 * in) over the same memory: Muon takes no others."""
    return [nn.Parameter(kernel.detach().permute(0, 2, 3, 1).view(len(kernel), -1)) for kernel in kernels]


def hand_over_gradients(kernels: list[nn.Parameter], matrices: list[nn.Parameter]) -> None:
    """Give each matrix its kernel's gradient."""
    for kernel, matrix in zip(kernels, matrices, strict=True):
        assert kernel.grad is not None
        matrix.grad = kernel.grad.permute(0, 2, 3, 1).reshape(matrix.shape)


# ---------------------------------------------------------------- start, validation, files


def start_from_patches(network: Network, batches: list[Tensor]) -> None:
    """Set the linear paths: principal components in, least squares from the rounded codes out."""
    factor = network.encoder_linear.stride[0]
    x = torch.cat([F.unfold(b.contiguous(), factor, stride=factor).transpose(1, 2).flatten(0, 1) for b in batches])
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    channels = network.encoder_linear.out_channels
    basis = vectors[:, -channels:].flip(1) / values[-channels:].flip(0).sqrt()  # unit variance, strongest first
    shape = (channels, 3, factor, factor)
    with torch.no_grad():
        network.encoder_linear.load_state_dict({"weight": basis.T.reshape(shape), "bias": -mean @ basis})
        codes = network.quantizer(network.encoder_linear(torch.cat(batches))).permute(0, 2, 3, 1).flatten(0, 2)
        design = torch.cat([codes, torch.ones(len(codes), 1)], 1)
        solution = torch.linalg.lstsq(design, x).solution  # (channels + 1, 3 * factor**2)
        # The constant part becomes one colour: a transposed convolution's bias has no position.
        state = {"weight": solution[:-1].reshape(shape), "bias": solution[-1].view(3, -1).mean(1)}
        network.decoder_linear.load_state_dict(state)


@torch.no_grad()
def validate(network: Network, held_out: Tensor) -> dict[str, float]:
    """Mean PSNR (dB), SSIM and LPIPS of the held-out pictures, uint8 (B, 3, 256, 256), and how many codes they use."""
    used, decoded = [], []
    for picture in held_out:
        codes = network.encode(images.to_float(picture[None]))
        used.append(codes.indices[0].flatten())
        decoded.append(images.to_uint8(network.decode(codes)))
    pictures = torch.cat(decoded)
    scores = {
        metric.__name__: float(metric(held_out, pictures).mean())
        for metric in (metrics.psnr, metrics.ssim, metrics.lpips)
    }
    share = torch.cat(used).bincount().double() / sum(len(part) for part in used)
    share = share[share > 0]
    return scores | {"codes": float(len(share)), "entropy": float(-(share * share.log2()).sum())}


def write(state: dict[str, Tensor], path: Path, note: dict[str, str]) -> None:
    """Write fp16 weights, atomically."""
    temporary = path.with_suffix(".tmp")
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(half, temporary, metadata=note)
    temporary.replace(path)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--minutes", type=float, default=60, help="wall time of the whole run (default: %(default)s)")
    parser.add_argument("--pool", type=Path, default=HERE / "pool", help="what pool.py wrote")
    parser.add_argument("--out", type=Path, default=HERE / "pool" / "runs", help="checkpoints, log and weights")
    parser.add_argument("--rendered", type=int, default=600, help="number of rendered pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    recipe = RECIPES[args.name]
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    folder: Path = args.out / args.name
    folder.mkdir(parents=True, exist_ok=True)
    pool = load_pool(args.pool, recipe, args.rendered, args.seed)
    held_out = torch.stack(pool.held_out)
    lpips_loss = load_lpips()
    network = Network(recipe.config).to(memory_format=torch.channels_last)

    def average(averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        """Follow the weights faster at first, when they move fast."""
        decay = min(recipe.ema, (2 + int(steps)) / (11 + int(steps)))
        torch._foreach_lerp_(averaged, current, 1 - decay)

    ema = AveragedModel(network, multi_avg_fn=average)
    parameters = dict(network.named_parameters())
    inner = (".stages.", ".downs.", ".ups.")  # the kernels between hidden maps; the others touch pixels or codes
    inside = {name for name, p in parameters.items() if p.ndim == 4 and any(part in name for part in inner)}
    kernels = [p for name, p in parameters.items() if name in inside]
    rest = [p for name, p in parameters.items() if name not in inside]
    matrices = as_matrices(kernels)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, recipe.muon_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(rest, recipe.adam_rate, (0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    step, done = 0, 0.0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        ema.load_state_dict(saved["ema"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        step, done = saved["step"], saved["seconds"]
    else:
        rng = random.Random(args.seed)
        start_from_patches(network, [crops(pool, recipe, rng) for _ in range(60)])
        ema.module.load_state_dict(network.state_dict())
    rng = random.Random(args.seed + step)

    count = sum(parameter.numel() for parameter in network.parameters())
    size = network.codebook_size
    sys.stdout.write(
        f"{args.name}: {count} parameters, {size} codes; "
        f"{len(pool.photos)} pictures, {len(pool.rendered)} rendered, {len(held_out)} held out\n"
    )
    budget = args.minutes * 60
    start = time.monotonic() - done
    cpu = time.process_time()
    usual_norm = 1.0
    next_save, next_look = done + 120, done + (240 if step else 0)
    sums = {"rmse": 0.0, "ssim": 0.0, "lpips": 0.0, "steps": 0.0}
    log = (folder / "log.jsonl").open("a")

    def look(seconds: float) -> None:
        scores = validate(ema.module, held_out)
        line: dict[str, Any] = {"step": step, "seconds": round(seconds), "cpu": round(time.process_time() - cpu)}
        line |= {f"train_{k}": round(v / max(sums["steps"], 1), 4) for k, v in sums.items() if k != "steps"}
        line |= {name: round(value, 4) for name, value in scores.items()}
        text = json.dumps(line)
        log.write(text + "\n")
        log.flush()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        for name in sums:
            sums[name] = 0.0

    while (seconds := time.monotonic() - start) < budget:
        progress = seconds / budget
        rate = min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * progress))
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            optimiser.param_groups[0]["lr"] = peak * rate
        first, last = recipe.lpips_from
        weight = recipe.lpips * min(1.0, max(0.0, (progress - first) / (last - first)))

        x = crops(pool, recipe, rng)
        with torch.autocast("cpu", torch.bfloat16):
            latent = network.latent(x).float()
            y = network.pixels(network.quantizer(latent))
            distance = lpips_loss(y, x).mean() if weight > 0 else torch.zeros(())
        y = y.float()
        # The root of each crop's error, not the error's mean: so smooth crops keep a say, as they have in a mean PSNR.
        rmse = ((y - x).square().mean((1, 2, 3)) + 1e-5).sqrt().mean()
        alike = likeness(x, y).mean()
        far = (latent.abs() - 3).clamp(min=0).square().mean()  # there tanh is flat: no gradient would ever lead back
        loss = rmse + recipe.ssim * (1 - alike) + weight * distance.float() + 0.01 * far
        network.zero_grad(set_to_none=True)
        loss.backward()
        # One steep batch (LPIPS divides by the length of its features) would steer Muon's momentum for twenty steps.
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), 1.5 * usual_norm))
        if not math.isfinite(norm):
            continue
        usual_norm = 0.95 * usual_norm + 0.05 * min(norm, 3 * usual_norm)
        hand_over_gradients(kernels, matrices)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        ema.update_parameters(network)
        for name, value in (("rmse", rmse), ("ssim", alike), ("lpips", distance), ("steps", 1.0)):
            sums[name] += value.detach().item() if isinstance(value, Tensor) else value

        if seconds >= next_look:
            look(seconds)
            next_look = seconds + 240
        if seconds >= next_save:
            saved = {"network": network.state_dict(), "ema": ema.state_dict()}
            saved["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
            torch.save(saved | {"step": step, "seconds": seconds}, folder / "checkpoint.tmp")
            (folder / "checkpoint.tmp").replace(checkpoint)
            write(
                ema.module.state_dict(),
                folder / f"{args.name}.safetensors",
                {"step": str(step), "seconds": f"{seconds:.0f}"},
            )
            next_save = seconds + 120

    note = {"config": recipe.config.model_dump_json(), "step": str(step), "seconds": f"{budget:.0f}"}
    write(ema.module.state_dict(), folder / f"{args.name}.safetensors", note)
    look(budget)


if __name__ == "__main__":
    main()
