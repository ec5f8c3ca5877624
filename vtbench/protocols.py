"""The published protocols and our own, as data: how pictures become numbers, by name. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vtbench.catalogue import PSNR_CAP, RFID_MINIMUM
from vtbench.errors import CardError

Geometry = Literal[
    "pil-lanczos",
    "pil-lanczos-cover",
    "pil-bilinear",
    "pil-bicubic",
    "cv2-bilinear",
    "tensor-bilinear",
    "adm",
    "native-padded",
    "letterbox",
]

GEOMETRIES: dict[Geometry, str] = {
    "pil-lanczos": "PIL's Lanczos filter on the short side, long side truncated; centre crop, offset rounded",
    "pil-lanczos-cover": "PIL's Lanczos filter until the square is covered, both sides rounded; crop offset floored",
    "pil-bilinear": "PIL's bilinear filter (it antialiases) on the short side, long side truncated; offset rounded",
    "pil-bicubic": "PIL's bicubic filter on the short side, long side truncated; centre crop, offset rounded",
    "cv2-bilinear": "OpenCV's bilinear filter, which does not antialias; both sides rounded, crop offset floored",
    "tensor-bilinear": "the float tensor is resized, bilinear with antialias, and never rounded to levels",
    "adm": "halved by PIL's box filter while twice too large, then PIL's bicubic filter; crop offset floored",
    "native-padded": "native size, padded with black to multiples of 16, half before and the rest after",
    "letterbox": "PIL's Lanczos filter to fit inside a black square, in its middle",
}
"""How a raw picture becomes what a tokenizer is fed (`vtbench.geometry.fit`)."""

Rounding = Literal["pixels", "floats", "half-up", "half-even", "truncate"]

ROUNDINGS: dict[Rounding, str] = {
    "pixels": "the uint8 picture itself",
    "floats": "floats, never rounded to levels",
    "half-up": "clamped, 255 v + 0.5 rounded down",
    "half-even": "clamped, 255 v rounded to the nearest level, ties to even",
    "truncate": "clamped, 255 v in float32 rounded down: half a level darker on average",
}
"""How floats become the levels that are scored."""

Window = Literal["gaussian-11", "gaussian-11-mirrored", "uniform-7"]

WINDOWS: dict[Window, str] = {
    "gaussian-11": "Gaussian window 11, sigma 1.5, the 5 pixels at the border dropped",
    "gaussian-11-mirrored": "Gaussian window 11, sigma 1.5, the border mirrored and counted",
    "uniform-7": "uniform window 7, sample covariance, the 3 pixels at the border dropped",
}


OWN = "vtbench"
"""The source of the suite's own protocol."""


@dataclass(frozen=True)
class Psnr:
    """How a protocol computes PSNR, always on levels."""

    pooled: bool = False
    """One squared error over all pictures, its logarithm after, in place of the mean of each picture's PSNR."""
    peak: Literal["255", "data"] = "255"
    """What counts as full scale: 255, or what the originals happen to span (zero included)."""


@dataclass(frozen=True)
class Ssim:
    """How a protocol computes SSIM."""

    window: Window = "gaussian-11"
    on: Literal["levels", "floats"] = "levels"
    """What is compared: what was rounded, or the floats before (clamped to their range)."""
    span: tuple[float, float] = (0.0, 1.0)
    """What the levels 0 and 255 become; SSIM is not invariant to a shift."""
    data_range: float | None = 1.0
    """The L of its constants; None takes what the batch happens to span."""


@dataclass(frozen=True)
class Lpips:
    """How a protocol computes LPIPS."""

    nets: tuple[Literal["alex", "vgg"], ...] = ("alex",)
    on: Literal["levels", "floats"] = "levels"
    span: tuple[float, float] = (-1.0, 1.0)
    """What the levels 0 and 255 become; the networks were trained on (-1, 1)."""
    clamped: bool = True
    """Whether floats are clamped to their range first."""


LPIPS_NAMES: dict[Literal["alex", "vgg"], str] = {"alex": "lpips", "vgg": "lpips_vgg"}
"""What the catalogue calls LPIPS by each network."""


@dataclass(frozen=True)
class Rfid:
    """How a protocol computes rFID, and the Inception score where it does."""

    on: Literal["levels", "floats"] = "levels"
    resize: Literal["tf1", "bilinear"] = "tf1"
    """To 299 x 299: as TensorFlow 1 does it, or torch's bilinear filter without antialias."""
    precision: Literal["fp32", "fp64"] = "fp32"
    inception_score: bool = False


@dataclass(frozen=True)
class Protocol:
    """How pictures become numbers: the way in, the way out, the metrics' arguments and the averaging, as data."""

    name: str
    title: str
    source: str
    """Repository and commit whose evaluation code does this; "vtbench" for our own."""
    geometry: Geometry = "pil-lanczos"
    size: int | None = 256
    """Height and width where nobody says another; None keeps the native size."""
    reference: Rounding = "pixels"
    reconstruction: Rounding = "half-up"
    scored_at: int | None = None
    """Both sides are resized to this square by PIL's bilinear filter before they are scored."""
    psnr: Psnr | None = Psnr()
    ssim: Ssim | None = Ssim()
    lpips: Lpips | None = Lpips()
    rfid: Rfid | None = Rfid()
    text: Literal["against-original", "words"] | None = None
    """How text tasks are scored: a page as read before against as read after, or known words in their boxes."""
    batch_means: tuple[str, ...] = ()
    """Metrics that are averaged within batches of `batch` pictures first, so that a short last batch weighs more."""
    batch: int = 1
    notes: tuple[str, ...] = ()
    """What else a reader must know, a sentence each."""

    def __post_init__(self) -> None:
        if self.geometry == "tensor-bilinear" and self.reference == "pixels":
            raise ValueError("tensor-bilinear makes floats: its original needs a rounding other than pixels")

    @property
    def published(self) -> bool:
        """Whether it is somebody's published evaluation, which brings pictures to their size by rules of its own."""
        return self.source != OWN

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name the metrics it defines, as the catalogue does."""
        names = ["psnr"] if self.psnr else []
        names += ["ssim"] if self.ssim else []
        if self.lpips:
            names += [LPIPS_NAMES[net] for net in self.lpips.nets]
        if self.rfid:
            names += ["rfid", *(["inception_score"] if self.rfid.inception_score else [])]
        return tuple(names)

    def is_plain_mean(self, metric: str) -> bool:
        """Tell whether a metric's score is the plain mean over pictures, and not pooled, by batches or of all text."""
        pooled = metric == "psnr" and self.psnr is not None and self.psnr.pooled
        by_batch = metric == "ssim" and self.ssim is not None and self.ssim.data_range is None
        return not pooled and not by_batch and metric not in (*self.batch_means, *self.text_metrics)

    @property
    def text_metrics(self) -> tuple[str, ...]:
        """Name what it adds on tasks of the family text."""
        return {None: (), "against-original": ("cer_page", "wer_page"), "words": ("word_accuracy", "ned")}[self.text]


_SEED_VOKEN = Protocol(
    name="seed-voken",
    title="SEED-Voken's evaluation of IBQ (ImageNet configurations)",
    source="TencentARC/SEED-Voken b9a17eac8e2c0779c12a5429b0bfd6c502788484",
    geometry="cv2-bilinear",
    reference="truncate",
    reconstruction="truncate",
    ssim=Ssim(window="uniform-7"),
    lpips=Lpips(nets=("alex", "vgg"), on="floats"),
    rfid=Rfid(on="floats", resize="bilinear"),
    batch_means=("psnr", "ssim"),
    batch=4,
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="canonical",
            title="vtbench's own: the same pixels for everybody",
            source=OWN,
            notes=(
                f"A PSNR counts {PSNR_CAP:.0f} dB at most in a mean; one of infinite values alone is infinite.",
                "The task says the size, and pictures are scored at it.",
                f"rFID is refused under {RFID_MINIMUM} pictures.",
            ),
        ),
        Protocol(
            name="vtbench-2025",
            title="the VTBench paper's evaluation code",
            source="xingjianleng/VTBench 01368b3fb1d0a2aa387917d49515d152610e76e3",
            geometry="pil-lanczos-cover",
            reference="truncate",
            reconstruction="truncate",
            scored_at=256,
            psnr=Psnr(pooled=True, peak="data"),
            ssim=Ssim(window="gaussian-11-mirrored", data_range=None),
            lpips=Lpips(span=(0.0, 1.0)),
            text="against-original",
            batch=16,
            notes=(
                "Text: what the OCR engine reads on the original counts as the truth; nothing is normalised, the sums "
                "run over all pictures, and WER is the CHARACTER distance over the number of words. Its own recogniser "
                "is another one than the engines here.",
                "The range of SSIM is that of the batch, so its value depends on the batch size (16 in its scripts).",
                "Of models in [-1, 1] truncation also darkens the original; of models in [0, 1] it does not.",
                "Its single-picture values use that picture's own range.",
            ),
        ),
        _SEED_VOKEN,
        replace(
            _SEED_VOKEN,
            name="seed-voken-tv",
            title="SEED-Voken's evaluation of Open-MAGVIT2 and of IBQ's pretrained models",
            geometry="pil-bilinear",
        ),
        Protocol(
            name="lightningdit",
            title="LightningDiT's evaluation of VA-VAE",
            source="hustvl/LightningDiT 2725fed42a14898744433809949834e26957bcdd",
            geometry="tensor-bilinear",
            reference="half-up",
            ssim=Ssim(window="gaussian-11-mirrored", on="floats", span=(-1.0, 1.0), data_range=2.0),
            lpips=Lpips(nets=("vgg",), on="floats", clamped=False),
            rfid=Rfid(resize="bilinear"),
            batch_means=("ssim", "lpips_vgg"),
            batch=8,
            notes=("Its code draws the posterior without a fixed seed, so that its own runs differ a little.",),
        ),
        Protocol(
            name="llamagen",
            title="LlamaGen's reconstruction script",
            source="FoundationVision/LlamaGen ce98ec41803a74a90ce68c40ababa9eaeffeb4ec",
            geometry="adm",
            reference="floats",
            ssim=Ssim(window="uniform-7", data_range=2.0),
            lpips=None,
            rfid=None,
            notes=(
                "SSIM is computed with twice the true range, which inflates it.",
                "Its FID comes from ADM's TensorFlow evaluator on the uint8 pictures, which is not part of this.",
            ),
        ),
        Protocol(
            name="vfm-vae",
            title="VFM-VAE's reconstruction and evaluation tools",
            source="tianciB/VFM-VAE b3a752a3f73a292f8f59a5f178e5de69575db6c4",
            geometry="pil-bilinear",
            reconstruction="truncate",
            ssim=Ssim(window="gaussian-11-mirrored", span=(-1.0, 1.0), data_range=2.0),
            lpips=Lpips(nets=("vgg",)),
            batch=1,
        ),
        Protocol(
            name="titok",
            title="TiTok's evaluator (1d-tokenizer)",
            source="bytedance/1d-tokenizer 942a96fbdd873780179d1b78d5462911528bf8c8",
            geometry="pil-bicubic",
            reconstruction="half-even",
            psnr=None,
            ssim=None,
            lpips=None,
            rfid=Rfid(precision="fp64", inception_score=True),
        ),
        Protocol(
            name="cosmos",
            title="Cosmos-Tokenizer on images, scored by TokenBench",
            source="NVIDIA/Cosmos-Tokenizer 3584ae752ce8ebdbe06a420bf60d7513c0e878cc; "
            "NVlabs/TokenBench dcbb7d587abe2804da4d23ac46f9caf17f4b641c",
            geometry="native-padded",
            size=None,
            ssim=Ssim(window="uniform-7"),
            lpips=Lpips(nets=("vgg",)),
            rfid=None,
            notes=(
                "Padding is cut off again before scoring. It defines no FID of images.",
                "Its networks run in bfloat16 unless told otherwise: `--precision bf16`.",
            ),
        ),
        Protocol(
            name="tokbench",
            title="TokBench's geometry for text images",
            source="wjf5203/TokBench a77070cb1d58385dfe4b4dc910320f81a20f1b65; "
            "geometry: kiangyeeo/VTBenchLab 64b6b51a5f976f020617753f0022d1aaf8d467f0",
            geometry="letterbox",
            reconstruction="half-even",
            text="words",
            ssim=None,
            lpips=None,
            rfid=None,
            notes=(
                "Scored at the original size: the window is cut out and resized by PIL's Lanczos filter.",
                "It publishes word accuracy and 1 - NED of text only: the plain mean of three bins of text height. Its "
                "recogniser, PARSeq, is replaced by the task's OCR engine. PSNR is given for diagnosis.",
                "Its scripts save under the data set's own name, most of them as JPEG of quality 75; here nothing is.",
            ),
        ),
    )
}


@dataclass(frozen=True)
class Deviation:
    """One rule in which a published protocol differs from canonical."""

    fields: tuple[str, ...]
    """The fields of `Protocol` that hold it."""
    sentence: str


def deviations(protocol: Protocol) -> list[Deviation]:
    """Say in one sentence each where a protocol differs from canonical, for the metrics that both define."""
    own = PROTOCOLS["canonical"]
    found = []
    floats = protocol.geometry == "tensor-bilinear"
    if protocol.geometry != own.geometry:
        moved = ("geometry", "size", "reference") if floats else ("geometry", "size")
        rounded = f"; the original is then rounded: {ROUNDINGS[protocol.reference]}" if floats else ""
        found.append(Deviation(moved, f"Geometry: {GEOMETRIES[protocol.geometry]}{rounded}."))
    if protocol.reference != own.reference and not floats:
        found.append(Deviation(("reference",), f"Original: {ROUNDINGS[protocol.reference]}."))
    if protocol.reconstruction != own.reconstruction:
        found.append(Deviation(("reconstruction",), f"Reconstruction: {ROUNDINGS[protocol.reconstruction]}."))
    if protocol.scored_at:
        side = protocol.scored_at
        found.append(Deviation(("scored_at",), f"Both sides are resized to {side}x{side} (PIL bilinear) for scoring."))
    if protocol.psnr and protocol.psnr != own.psnr:
        pooled = "one squared error pooled over all pictures" if protocol.psnr.pooled else "one value a picture"
        peak = "; full scale is what the originals happen to span" if protocol.psnr.peak == "data" else ""
        found.append(Deviation(("psnr",), f"PSNR: {pooled}{peak}."))
    if protocol.ssim and protocol.ssim != own.ssim:
        rule = protocol.ssim
        what = "unrounded floats" if rule.on == "floats" else "levels"
        span = f"{what} in [{rule.span[0]:g}, {rule.span[1]:g}]"
        reach = "of what the batch spans" if rule.data_range is None else f"{rule.data_range:g}"
        found.append(Deviation(("ssim",), f"SSIM: {WINDOWS[rule.window]}; {span}, range {reach}."))
    if protocol.lpips and protocol.lpips != own.lpips:
        rule_ = protocol.lpips
        what = "floats" if rule_.on == "floats" else "levels"
        clamped = "" if rule_.clamped or rule_.on == "levels" else " without a clamp"
        span = f"[{rule_.span[0]:g}, {rule_.span[1]:g}]"
        found.append(Deviation(("lpips",), f"LPIPS: {' and '.join(rule_.nets)} on {what} in {span}{clamped}."))
    if protocol.rfid and protocol.rfid != own.rfid:
        what = "unrounded floats" if protocol.rfid.on == "floats" else "levels"
        resize = "TF1's resize" if protocol.rfid.resize == "tf1" else "torch's bilinear resize without antialias"
        found.append(Deviation(("rfid",), f"rFID: {what}, {resize}, network in {protocol.rfid.precision}."))
    if protocol.batch_means:
        means = f"{', '.join(protocol.batch_means)} are means of the means of batches of {protocol.batch}"
        found.append(Deviation(("batch_means", "batch"), f"Averaging: {means}."))
    return found


EFFECTS_ON = ("psnr", "ssim", "lpips", "lpips_vgg")
"""Metrics in which the effect of a deviation is stated."""


def effects(protocol: Protocol) -> tuple[list[tuple[str, dict[str, float]]], str]:
    """Say where a protocol differs from canonical, and by how much each of these rules alone moves a number.

    Returns:
        Each deviation's sentence with its effects by metric (empty where it was not measured), and what they were
        measured on. `benchmarks/conventions.py --write` measures them.
    """
    known = json.loads((Path(__file__).resolve().parent / "assets" / "deviations.json").read_bytes())
    own = known["effects"].get(protocol.name, {})
    measured = f"{known['tokenizer']} on {known['task']}, scored at 256"
    return [(one.sentence, own.get(one.sentence, {})) for one in deviations(protocol)], measured


def find_protocol(name: str) -> Protocol:
    """Find a protocol by its exact name.

    Raises:
        CardError: listing the names there are.
    """
    if name not in PROTOCOLS:
        raise CardError(f"no protocol is called {name!r}; expected one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
