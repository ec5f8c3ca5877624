"""Every metric, one line each: what a reader must know of it, and which measure computes it. No torch here.

A line is a metric's registration. What `measure` makes of the other fields stands at that measure (vtbench/measures/):
`pairs` calls `function(reference, reconstruction)` on uint8 batches, `sets` on the features of all pictures, `text` on
what stands on a picture and what an OCR engine read. Packages add metrics by entry points of the group
`vtbench.metrics`, each a `Metric` or a sequence of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

from vtbench.errors import CardError, unknown

Direction = Literal["higher", "lower", "one"]
"""Which values are better: higher ones, lower ones, or those nearer to 1."""

ARROWS: Mapping[Direction, str] = {"higher": "↑", "lower": "↓", "one": "→1"}

NAME = re.compile(r"[a-z][a-z0-9_]*")

RESERVED = frozenset({"index", "id", "reason", "attribute", "reading"})
"""Columns of the per-image table that are not metrics'."""

OCR = "ocr"
"""The need of metrics that read text: the OCR engine that the task names."""

FOUNDATION = "foundation"
"""The need of metrics that compare with a foundation model: the one that the task names."""


@dataclass(frozen=True)
class Metric:
    """What a reader must know of a metric, and how it is computed."""

    name: str
    """Small letters, digits and underscores: what cards and results call it."""
    title: str
    """What tables call it."""
    direction: Direction
    """higher, lower or one: which values are better."""
    digits: int
    """Decimals in a table."""
    description: str
    """One sentence for `vtbench list metrics`."""
    measure: str = "pairs"
    """`pairs` means the class `Measure` of vtbench/measures/pairs.py, or an entry point of `vtbench.measures`."""
    needs: tuple[str, ...] = ()
    """Backbones without which it can't be scored (`vtbench.backbones`), and OCR for the task's OCR engine."""
    cap: float | None = None
    """What a value beyond it, infinite or not, counts in a mean; an infinite one without a cap makes the mean so."""
    function: str | None = None
    """`package.module:name` of what computes it, where its measure calls one function a metric."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function, and what else its measure asks for."""
    grouped: bool = True
    """Whether it says something of the few pictures of a group."""
    evidence: str = ""
    """Of a diagnostic, by which nothing ranks: who showed what by it, on how many models, in one sentence."""
    warning: str = ""
    """Of a diagnostic: how it misleads, in one sentence."""

    @property
    def arrow(self) -> str:
        """Say in a table's head which way is better."""
        return ARROWS[self.direction]

    @property
    def minimum(self) -> int:
        """Say under how many pictures a value of whole sets is refused; 0 where it never is."""
        return int(self.options.get("minimum", 0))

    def badness(self, value: float) -> float:
        """Order values: the larger, the worse."""
        if self.direction == "one":
            return abs(value - 1.0)
        return -value if self.direction == "higher" else value


PSNR_CAP = 100.0
"""dB that a PSNR counts for at most in a mean, infinite or not; a mean of infinite values alone stays infinite."""

RFID_MINIMUM = 2048
"""rFID is refused under this many pictures, as many as it has features: what of the value comes from the number of
pictures grows as that falls. The value itself would be exact, though the covariances have no full rank."""

_HERE = "vtbench.metrics"
_FID = f"{_HERE}.frechet"
_TEXT = f"{_HERE}.text"


def _pair(
    name: str,
    title: str,
    direction: Direction,
    digits: int,
    description: str,
    *,
    function: str | None = None,
    options: Mapping[str, Any] | None = None,
    needs: tuple[str, ...] = (),
    cap: float | None = None,
) -> Metric:
    return Metric(
        name, title, direction, digits, description,
        needs=needs, cap=cap, function=f"{_HERE}:{function or name}", options=options or {},
    )  # fmt: skip


def _read(
    name: str,
    title: str,
    description: str,
    where: str,
    function: str,
    *,
    direction: Direction = "lower",
    digits: int = 4,
) -> Metric:
    return Metric(
        name, title, direction, digits, description, "text",
        needs=(OCR,), function=f"{_TEXT}:{function}", options={"read": where},
    )  # fmt: skip


def _curve(
    name: str,
    title: str,
    direction: Direction,
    digits: int,
    description: str,
    *,
    needs: tuple[str, ...] = (),
    cap: float | None = None,
) -> Metric:
    pair = name.removeprefix("curve_")
    return Metric(
        name, title, direction, digits, description, "curve",
        needs=needs, cap=cap, function=None if pair == "bpp" else f"{_HERE}:{pair}",
    )  # fmt: skip


_chart = functools.partial(Metric, measure="charts")
_codes = functools.partial(Metric, measure="codes", grouped=False)
_latent = functools.partial(Metric, measure="latents", grouped=False)
_set = functools.partial(Metric, measure="latent_sets", grouped=False)
_stability = functools.partial(Metric, measure="stability")
_tokens = functools.partial(Metric, measure="tokens")

_PAE = "PAE (arXiv 2605.07915), read in summaries alone: "
_IREPA = "iREPA (arXiv 2512.10794): absolute r above .85 with the gFID of REPA, 27 encoders as targets of the alignment"
_GRIDS = "Shown of encoders as targets, not of tokenizers; on 16x16 places, others are pooled to them"
_OFFSET = f"{_GRIDS}; an offset that all places share raises all cosines: read the centred form."
_ROBUST = (
    "RobusTok, ImageFolder (arXiv 2509.12474, 2503.08354): claimed over 11 tokenizers and 2 generators; the better one "
    "was trained for the property."
)
_EQ = "EQ-VAE (arXiv 2502.09509) against SD-VAE under SiT-XL/2: gFID 25.9 to 20.8; 2 models, the better trained for it."
_SPECTRUM = (
    "Spectrum matching (arXiv 2603.14645) and scale equivariance (arXiv 2502.14831: gFID -19%, FVD -44%): models that "
    "were trained for the property."
)
_VFM = (
    "VFM-VAE (arXiv 2510.18457), read in summaries alone: of 3 tokenizers clean .004/.202/.188 misorders gFID "
    "7.13/5.14/3.80, under SE .005/.135/.191 orders it."
)
_NULL = "The null is about k / n, not 0; few channels can't align; it depends on the model it is compared with."

_LATENT_SETS = (
    _set(
        "ifid", "iFID", "lower", 3,
        "FID of decodes half way between a latent of one half and one of its 10 nearest in the other",
        options={"minimum": 2 * RFID_MINIMUM}, needs=("inception",),
        evidence="arXiv 2603.05630, computed from its README: r .90 over 14 VAEs (SiT-XL), .86 over 13 (SiT-B).",
        warning="Not the paper's number, whose reference is ImageNet's train split: it moves with the number of "
        "pictures.",
    ),
    _set(
        "pfid", "pFID", "lower", 3,
        "FID of decodes half of whose tokens are changed: among their nearest codes, or in their least certain digit",
        options={"minimum": RFID_MINIMUM}, needs=("inception",),
        evidence=_ROBUST,
        warning="The published rate and number of codes could not be read: compare within this table alone.",
    ),
    _set(
        "purity", "label purity", "higher", 4, "share of pictures whose nearest other pooled latent has their label",
        options={"minimum": 1000},
        evidence=f"{_PAE}rho -.74 with gFID over 8 ablations of one model.",
        warning="The share by chance is one over the number of labels; pooled latents of few channels tell little.",
    ),
    _set(
        "token_gain", "token gain (bits)", "higher", 3,
        "bits a token that knowing the one before it saves, on pictures that were not counted",
        options={"minimum": 2000},
        evidence="None published: theory alone (arXiv 2412.16326 trains for predictability).",
        warning="Negative where counting the pairs teaches nothing, as on noise; it grows with the number of pictures.",
    ),
    _set(
        "cknna", "CKNNA", "higher", 4,
        "alignment of pooled latents with a foundation model's features, k = 10 nearest neighbours",
        options={"minimum": 1000}, needs=(FOUNDATION,),
        evidence=_VFM, warning=_NULL,
    ),
    _set(
        "cknna_se", "SE-CKNNA", "higher", 4, "CKNNA of pictures turned and scaled, and of noisy ones: mean of five",
        options={"minimum": 1000}, needs=(FOUNDATION,),
        evidence=_VFM, warning=_NULL,
    ),
    _set(
        "cknna_change", "SE change", "higher", 3, "what the changes take of CKNNA: (SE - clean) / clean",
        options={"minimum": 1000}, needs=(FOUNDATION,),
        evidence=_VFM, warning="A small clean value makes any change look large.",
    ),
)  # fmt: skip

_LATENTS = (
    _latent(
        "lpc", "LPC", "lower", 4, "LPIPS that noise on the latent moves its decode by; radii 0.1 to 2 of its length",
        options={"of": "lpc"}, needs=("lpips-alex",),
        evidence=f"{_PAE}rho .95 with gFID over 8 ablations of one model.",
        warning="The radius is a share of the latent's length, so a latent with a large mean gets more noise.",
    ),
    _latent(
        "token_rise", "nearest codes", "lower", 4,
        "LPIPS to the original that half of the tokens cost, drawn anew among their nearest codes (1% of the codebook)",
        options={"of": "tokens"}, needs=("lpips-alex",),
        evidence=_ROBUST,
        warning="The nearest code is among the drawn ones, and 1% of a codebook is another distance in each.",
    ),
    _latent(
        "digit_rise", "least certain digits", "lower", 4,
        "LPIPS to the original that half of the tokens cost, each with its least certain digit or bit changed",
        options={"of": "tokens"}, needs=("lpips-alex",),
        evidence="None published; it stands in for the nearest codes where there is no codebook (LFQ, BSQ, FSQ).",
        warning="Another measure than the nearest codes: the two are never compared.",
    ),
    _latent(
        "spectrum_kl", "spectrum match", "lower", 4,
        "KL divergence of the latent's DCT rings from the picture's, ring f times f; each channel standardised",
        options={"of": "spectrum"},
        evidence=_SPECTRUM,
        warning="Standardised by each picture's own channels; without that the latent's scale moves it.",
    ),
    _latent(
        "spectrum_high", "upper rings", "lower", 4, "share of the latent's spectrum in the upper half of 16 rings",
        options={"of": "spectrum"},
        evidence=_SPECTRUM, warning="White noise has half of it, a flat latent none: read it beside the match.",
    ),
    _latent(
        "block_high", "block spectrum", "lower", 4,
        "mean amplitude of the later 32 coefficients of the latent's 8x8 DCT, over that of the constant one",
        options={"of": "blocks", "total": "block_high"},
        evidence=_SPECTRUM,
        warning="The constant coefficient holds the channel's mean, so an offset of a channel lowers it.",
    ),
    _latent(
        "scale_rise", "scaled", "lower", 4,
        "LPIPS that scaling the latent by .5 and .75 costs, beyond scaling the reconstruction",
        options={"of": "scales"}, needs=("lpips-alex",),
        evidence=_EQ, warning="A tokenizer that takes one size only has none.",
    ),
    _latent(
        "turn_rise", "turned", "lower", 4,
        "LPIPS that quarter turns of the latent cost, beyond turning the reconstruction",
        options={"of": "turns"}, needs=("lpips-alex",),
        evidence=_EQ, warning="Turned latents are out of the decoder's training distribution.",
    ),
    _latent(
        "lds", "LDS", "higher", 4, "cosine of neighbouring places less that of places six or more apart",
        options={"of": "structure"},
        evidence=f"{_IREPA}.", warning=_OFFSET,
    ),
    _latent(
        "lds_centred", "LDS, centred", "higher", 4, "LDS without each channel's mean over the picture",
        options={"of": "structure"},
        evidence="None published in this form.", warning=f"{_GRIDS}.",
    ),
    _latent(
        "cds", "CDS", "higher", 4, "fall of the cosine a step, over distances of 1 to 8 places",
        options={"of": "structure"},
        evidence=f"{_IREPA}.", warning=_OFFSET,
    ),
    _latent(
        "cds_centred", "CDS, centred", "higher", 4, "CDS without each channel's mean over the picture",
        options={"of": "structure"},
        evidence="None published in this form.", warning=f"{_GRIDS}.",
    ),
    _latent(
        "rmsc", "RMSC", "higher", 4, "root mean square distance of the normalised places from their mean",
        options={"of": "structure"},
        evidence=f"{_IREPA}.", warning=_OFFSET,
    ),
    _latent(
        "rmsc_centred", "RMSC, centred", "higher", 4, "RMSC without each channel's mean over the picture",
        options={"of": "structure"},
        evidence="None published in this form.",
        warning="It is close to 1 for any latent that varies, white noise included.",
    ),
    _latent(
        "effective_rank", "effective rank", "higher", 2, "directions that the pooled latents of all pictures use",
        options={"of": "pooled", "total": "effective_rank"},
        evidence=f"{_PAE}moderate.",
        warning="At most the number of channels and of pictures: compare tokenizers of the same numbers.",
    ),
)  # fmt: skip

_BUILT_IN = (
    _pair("psnr", "PSNR (dB)", "higher", 2, "10 log10(255² / MSE) of each picture, then the mean", cap=PSNR_CAP),
    _pair("ssim", "SSIM", "higher", 4, "Wang 2004: Gaussian window 11, sigma 1.5, mean over RGB, border dropped"),
    _pair(
        "ssim_uniform", "SSIM (uniform 7)", "higher", 4, "scikit-image's default: flat window 7, sample covariance",
        function="ssim", options={"window": "uniform-7"},
    ),
    _pair("ms_ssim", "MS-SSIM", "higher", 4, "Wang 2003: SSIM over five scales; from 161 px"),
    _pair("ciede2000", "ΔE 2000", "lower", 3, "CIEDE2000 colour difference, mean over pixels; 1 is just visible"),
    _pair("gmsd", "GMSD", "lower", 4, "Xue 2014: deviation of the similarity of luma gradients"),
    _pair("haarpsi", "HaarPSI", "higher", 4, "Reisenhofer 2018: Haar wavelet similarity, with colour; from 16 px"),
    _pair("flip", "FLIP", "lower", 4, "Andersson 2020: difference seen when flipped in place, 67 pixels a degree"),
    _pair(
        "lpips", "LPIPS", "lower", 4, "lpips package v0.1, AlexNet, pictures in [-1, 1]",
        needs=("lpips-alex",), options={"net": "alex"},
    ),
    _pair(
        "lpips_vgg", "LPIPS (VGG)", "lower", 4, "lpips package v0.1, VGG16, pictures in [-1, 1]",
        needs=("lpips-vgg",), function="lpips", options={"net": "vgg"},
    ),
    Metric(
        "rfid", "rFID", "lower", 3,
        "Fréchet distance of FID-Inception features, originals against reconstructions, TF1-compatible resize",
        measure="sets", needs=("inception",), function=f"{_FID}:frechet_distance",
        options={"sums": f"{_FID}:FrechetSums", "minimum": RFID_MINIMUM}, grouped=False,
    ),
    Metric(
        "kid", "KID", "lower", 5, "kernel distance of the same features over all pairs; equal sets are below 0",
        measure="sets", needs=("inception",), function=f"{_FID}:kernel_distance",
        options={"sums": f"{_FID}:KernelSums"}, grouped=False,
    ),
    Metric(
        "inception_score", "IS", "higher", 2, "Inception score of the reconstructions, one split",
        measure="published", needs=("inception",), grouped=False,
    ),
    _read("cer", "CER", "character error rate against the known text, in known boxes", "boxes", "cer"),
    _read("cer_micro", "CER (micro)", "all errors over all characters, in known boxes", "lines", "micro"),
    _read("wer", "WER", "word error rate against the known text, in known boxes", "boxes", "wer"),
    _read("cer_page", "CER (page)", "character error rate, text found by the engine", "page", "cer"),
    _read("wer_page", "WER (page)", "word error rate, text found by the engine", "page", "wer"),
    _read("ned", "NED", "edit distance over the longer text's length, in known boxes", "boxes", "ned"),
    _read(
        "word_accuracy", "T-ACC", "share of words read exactly and in order, in boxes", "boxes", "word_accuracy",
        direction="higher",
    ),
    _read(
        "legibility", "legible from (px)", "cap height from which CER is under 10%", "lines", "legibility_threshold",
        digits=1,
    ),
    _chart("mtf", "MTF", "higher", 3, "slanted edges, ISO 12233, over the original's step: mean of five levels"),
    _chart("mtf50", "MTF50 (c/px)", "higher", 3, "frequency at which the MTF falls under one half; untouched 0.60"),
    _chart("contrast", "contrast", "higher", 4, "share of line pairs' contrast kept, phase-locked, each in [0, 1]"),
    _chart("acutance", "acutance", "higher", 4, "dead leaves' transfer under the CSF of IEEE 1858, 60 px/degree"),
    _chart("spectral_ratio", "energy ratio", "one", 3, "energy after over before, by octave; above 1 is false"),
    _chart("coherence", "coherence", "higher", 4, "Fourier ring correlation with the original, by octave"),
    _chart("line_survival", "line survival", "higher", 4, "share of thin lines' contrast kept, each in [0, 1]"),
    _chart("smallest_line", "smallest line (px)", "lower", 2, "thinnest that keeps half its contrast, else infinite"),
    _chart("flat_noise", "flat noise (levels)", "lower", 3, "standard deviation of the error within flat fields"),
    _chart("banding", "banding (levels)", "lower", 2, "step of the uniform quantiser that would band ramps as much"),
    _stability(
        "repeat_psnr", "PSNR, 8 passes", "higher", 2, "PSNR in dB of the original and 8 round trips",
        cap=PSNR_CAP,
    ),
    _stability("repeat_drop", "drop (dB)", "lower", 2, "PSNR that round trips 2 to 8 cost; 0 is idempotent"),
    _stability("token_agreement", "tokens kept", "higher", 4, "share of tokens that a second pass leaves as they are"),
    _stability("shift_psnr", "shift PSNR", "higher", 2, "PSNR in dB of moved and unmoved reconstruction", cap=PSNR_CAP),
    _tokens(
        "tokens_per_picture", "tokens a picture", "lower", 0, "tokens of a picture, all scales and depths together",
    ),
    _tokens("homogeneity", "homogeneity", "higher", 4, "share of pixels in the segment that most of their token is in"),
    _tokens("homogeneity_gain", "over a grid", "higher", 4, "homogeneity less that of an even grid of as many regions"),
    _tokens("coverage", "coverage", "higher", 4, "overlap of each segment with the token that overlaps it most"),
    _tokens("tokens_placed", "tokens placed", "higher", 4, "share of tokens that any pixel belongs to"),
    _curve("curve_psnr", "PSNR by step", "higher", 2, "PSNR in dB from the first depths or scales", cap=PSNR_CAP),
    _curve("curve_ssim", "SSIM by step", "higher", 4, "SSIM from the first depths or scales of the codes"),
    _curve("curve_lpips", "LPIPS by step", "lower", 4, "LPIPS (AlexNet) from them", needs=("lpips-alex",)),
    _curve("curve_bpp", "bits/pixel by step", "lower", 4, "bits of those depths or scales, divided by the pixels"),
    *_LATENTS,
    *_LATENT_SETS,
    _codes("bpp", "bits/pixel", "lower", 4, "bits of the codes or of the whole file, divided by the task's pixels"),
    _codes("bpp_entropy", "entropy bits/pixel", "lower", 4, "the rate if an ideal order-0 coder packed the codes seen"),
    _codes("latent_values", "values/pixel", "lower", 4, "floats of a continuous latent, divided by the task's pixels"),
    _codes("code_usage", "code usage", "higher", 4, "share of the codebook seen over the task; grows with n"),
    _codes("code_entropy", "bits/token", "higher", 2, "entropy of the tokens seen over the task; grows with n"),
    _codes("code_perplexity", "perplexity", "higher", 1, "2 to an index's entropy: codes in use; grows with n"),
)  # fmt: skip


@functools.cache
def metrics() -> Mapping[str, Metric]:
    """Every metric by name, in the order of tables: the suite's own, then those of installed packages.

    Raises:
        CardError: if a package's entry point is no metric, or its name is taken or can't be a column's.
    """
    found = {metric.name: metric for metric in _BUILT_IN}
    for entry in metadata.entry_points(group="vtbench.metrics"):
        try:
            loaded = entry.load()
        except Exception as error:  # a package of somebody's, imported here for the first time
            raise CardError(
                f"entry point {entry.value} of the group vtbench.metrics can't be loaded ({error}); "
                "mend its package or uninstall it"
            ) from error
        for metric in loaded if isinstance(loaded, Iterable) else (loaded,):
            if not isinstance(metric, Metric):
                raise CardError(f"entry point {entry.value}: expected a vtbench.catalogue.Metric, got {metric!r}")
            if metric.name in found or metric.name in RESERVED or not NAME.fullmatch(metric.name):
                raise CardError(
                    f"entry point {entry.value}: the metric {metric.name!r} needs a name of its own, "
                    "of lower-case letters, digits and underscores"
                )
            found[metric.name] = metric
    return found


def find_metric(name: str) -> Metric:
    """Find a metric by its exact name.

    Raises:
        CardError: with the names that are like it.
    """
    known = metrics()
    if name not in known:
        raise CardError(f"{unknown('metric', name, list(known))}; one of a package is there once that is installed")
    return known[name]


def with_more(own: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Add metrics of single pictures, which any task can have, to a task's own.

    Raises:
        CardError: if a name is no metric's, or one's that belongs to certain tasks.
    """
    anywhere = [name for measure in ("pairs", "curve", "tokens") for name in of_measure(measure)]
    found = tuple(find_metric(name).name for name in names)
    for name in found:
        if name not in anywhere:
            raise CardError(f"{name} belongs to certain tasks and can't be added; expected {', '.join(anywhere)}")
    return tuple(dict.fromkeys((*own, *found)))


def of_measure(measure: str) -> tuple[str, ...]:
    """Name the metrics that one measure computes, in the order of tables."""
    return tuple(metric.name for metric in metrics().values() if metric.measure == measure)
