"""What a number means: the metrics and the protocols, by name. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vtbench.errors import CardError

Backbone = Literal["lpips-alex", "lpips-vgg", "inception", "easyocr"]


@dataclass(frozen=True)
class Metric:
    """What a reader must know of a metric."""

    name: str
    title: str
    higher_is_better: bool
    digits: int
    """Decimals in a table."""
    description: str
    needs: tuple[Backbone, ...] = ()
    """Backbones without which it can't be scored; `vtbench.backbones` finds and fetches them."""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR (dB)", True, 2, "10 log10(255² / MSE) of each picture, then the mean over pictures"),
        Metric("ssim", "SSIM", True, 4, "Wang 2004: Gaussian window 11, sigma 1.5, mean over RGB, border dropped"),
        Metric("ms_ssim", "MS-SSIM", True, 4, "Wang 2003: SSIM over five scales; from 161 px"),
        Metric("lpips", "LPIPS", False, 4, "lpips package v0.1, AlexNet, pictures in [-1, 1]", ("lpips-alex",)),
        Metric("lpips_vgg", "LPIPS (VGG)", False, 4, "lpips package v0.1, VGG16, pictures in [-1, 1]", ("lpips-vgg",)),
        Metric(
            "rfid",
            "rFID",
            False,
            3,
            "Fréchet distance of FID-Inception features, originals against reconstructions, TF1-compatible resize",
            ("inception",),
        ),
        Metric("cer", "CER", False, 4, "character error rate against the known text, in known boxes", ("easyocr",)),
        Metric("wer", "WER", False, 4, "word error rate against the known text, in known boxes", ("easyocr",)),
        Metric("cer_page", "CER (page)", False, 4, "character error rate, text found by the engine", ("easyocr",)),
        Metric("wer_page", "WER (page)", False, 4, "word error rate, text found by the engine", ("easyocr",)),
        Metric("bpp", "bits/pixel", False, 4, "bits of the codes or of the whole file, divided by the task's pixels"),
        Metric("code_usage", "code usage", True, 4, "share of the codebook seen over the task; grows with n"),
        Metric("code_entropy", "bits/token", True, 2, "entropy of the codes seen over the task; grows with n"),
    )
}

CODE_METRICS = ("bpp", "code_usage", "code_entropy")
"""Measured in every run, because quality without its rate is half a result."""

PSNR_CAP = 100.0
"""dB that an infinite PSNR counts for in a mean with finite ones; a mean of infinite values alone stays infinite."""

RFID_MINIMUM = 2048
"""rFID is refused under this many pictures: the covariance of 2048 features would be singular."""


@dataclass(frozen=True)
class Protocol:
    """How pictures become numbers."""

    name: str
    title: str
    geometry: str
    quantisation: str
    averaging: str
    source: str


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="canonical",
            title="vtbench's own: the same pixels for everybody",
            geometry="PIL-Lanczos resize of the short side, centre crop by torchvision's rounding; never rescaled",
            quantisation="clamp, then round half up to uint8, once; originals are never re-quantised",
            averaging=f"one value a picture, then the mean; infinite PSNR counts {PSNR_CAP:.0f} dB beside finite",
            source="vtbench",
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Find a protocol by its exact name.

    Raises:
        CardError: listing the names there are.
    """
    if name not in PROTOCOLS:
        raise CardError(f"no protocol is called {name!r}; expected one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def find_metric(name: str) -> Metric:
    """Find a metric by its exact name.

    Raises:
        CardError: listing the names there are.
    """
    if name not in METRICS:
        raise CardError(f"no metric is called {name!r}; expected one of: {', '.join(METRICS)}")
    return METRICS[name]
