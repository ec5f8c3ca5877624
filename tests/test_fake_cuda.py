"""Every network and every tensor metric on a GPU that isn't there: all tensors on it, and no value asked of it.

torch's FakeTensorMode runs operations on shapes, types and devices alone. It makes CUDA tensors on any machine, refuses
operations that mix devices, and refuses to give a value to the host, for which a real GPU would have to be waited for.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from builders import inception_state, write_pictures
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)

from vtbench import backbones, cards, catalogue, images, load_task, measures, metrics, plan, shards
from vtbench import device as devices
from vtbench.cards import Code, Input, TokenizerCard
from vtbench.errors import VtbenchError
from vtbench.metrics import frechet, learned, structure
from vtbench.networks._diffusers import library_class
from vtbench.passes import Passes
from vtbench.tokenizer import Tokenizer, build_network
from vtbench.types import Codes

SMALLEST = 64
"""Pixels a side, where a card takes any."""


def families() -> dict[str, TokenizerCard]:
    """One card a network; a codec's files are the host's business."""
    found: dict[str, TokenizerCard] = {}
    for card in cards.tokenizers().values():
        if card.kind != "codec":
            found.setdefault(card.network, card)
    return found


def _replace_tensors(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `nn.Module._apply` does behind `.to()` and `.half()`: torch's own can't exchange fake tensors in place."""
    for child in module.children() if recurse else ():
        child._apply(change)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(change(parameter), parameter.requires_grad)
        module._buffers.update({name: change(tensor) for name, tensor in module._buffers.items() if tensor is not None})
    return module


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    monkeypatch.setattr(nn.Module, "_apply", _replace_tensors)
    with contextlib.suppress(VtbenchError):  # not installed
        library_class(families()["diffusers"].config["class"])  # its module's constants stay real for later tests
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            torch.empty(4, device="cuda").uniform_()
        except RuntimeError as error:  # torch 2.9 asks the driver
            pytest.skip(f"torch {torch.__version__} has no fake GPU on a machine without one: {error}".splitlines()[0])
        yield mode


NO_FAKE = {"slot_mllm": "torch has no fake kernel of its recurrent cell"}
"""Networks that can't be run without memory."""


PACKAGES = {"diffusers": "diffusers", "vfmvae": "transformers"}
"""What networks need beside torch."""


def _is_cuda(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _round_trip(card: TokenizerCard, network: nn.Module) -> None:
    """Encode and decode two pictures; a tensor left on the CPU, or a value that is waited for, raises."""
    side = card.input.sizes[0] if card.input.sizes else -(-SMALLEST // card.input.multiple_of) * card.input.multiple_of
    tokenizer = Tokenizer(card, network, device="cuda")
    pictures = torch.zeros(2, 3, side, side, dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        codes = tokenizer.network.encode(images.to_float(pictures, tokenizer.span))
        given = [*codes.indices, *([] if codes.latent is None else [codes.latent])]
        assert given and all(map(_is_cuda, given))
        if card.kind == "understanding":
            return  # has no decoder
        decoded = tokenizer.network.decode(codes)
        assert _is_cuda(decoded) and decoded.shape[:2] == (2, 3)
        assert _is_cuda(images.to_uint8(decoded.float(), tokenizer.span))


@pytest.mark.parametrize("card", families().values(), ids=families().keys())
def test_a_network_stays_on_its_device_and_never_waits_for_it(card: TokenizerCard, fake: FakeTensorMode) -> None:
    if card.network in NO_FAKE:
        pytest.skip(NO_FAKE[card.network])
    if card.network in PACKAGES:
        pytest.importorskip(PACKAGES[card.network])
    with torch.device("cuda"):
        network = build_network(card)
    _round_trip(card, network)


# --- metrics ----------------------------------------------------------------------------------------------------------

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ssim, uniform": lambda x, y: metrics.ssim(x, y, window="uniform-7"),
    "ssim, mirrored": lambda x, y: structure.ssim_of(x, y, window="gaussian-11", border="mirror", data_range=255.0),
    "ms_ssim": metrics.ms_ssim,
    "ciede2000": metrics.ciede2000,
    "gmsd": metrics.gmsd,
    "haarpsi": metrics.haarpsi,
    "flip": metrics.flip,
}


def _pair() -> list[Tensor]:
    return [torch.zeros(2, 3, 176, 192, dtype=torch.uint8, device="cuda") for _ in range(2)]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_a_metric_stays_on_its_device_and_never_waits_for_it(
    metric: Callable[[Tensor, Tensor], Tensor], fake: FakeTensorMode
) -> None:
    found = metric(*_pair())
    assert _is_cuda(found) and found.shape == (2,) and found.dtype == torch.float64


def _faked(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Put a module that was built from files onto the GPU that isn't there."""
    return module._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_stays_on_its_device_and_never_waits_for_it(net: str, request: pytest.FixtureRequest) -> None:
    if backbones.find(f"lpips-{net}") is None:
        pytest.skip(backbones.missing(f"lpips-{net}"))
    module = learned.build(net)
    mode = request.getfixturevalue("fake")
    floats = [images.to_float(side) for side in _pair()]
    assert _is_cuda(_faked(module, mode)(*floats))


@pytest.mark.parametrize("resize", [rule for rule in frechet.RESIZES if rule != "clean"])  # that one is Pillow's
def test_the_network_of_rfid_stays_on_its_device_and_never_waits_for_it(
    resize: frechet.Resize, inception: metrics.FrechetDistance, request: pytest.FixtureRequest
) -> None:
    distance = copy.deepcopy(inception)
    distance.resize, distance.device = resize, torch.device("cuda")
    _faked(distance.network, request.getfixturevalue("fake"))
    found = distance.pooled(_pair()[0])
    assert _is_cuda(found) and found.shape == (2, 2048)


@pytest.fixture(scope="module")
def inception() -> metrics.FrechetDistance:
    return metrics.FrechetDistance(inception=inception_state())


# --- a batch of a run -------------------------------------------------------------------------------------------------


def _batch(
    network: nn.Module, inception: metrics.FrechetDistance, folder: Path, request: pytest.FixtureRequest
) -> tuple[list[int], pa.Table]:
    """Take four pictures through a network, its checks, pairs, features and codes on the GPU that isn't there.

    Returns:
        How many tensors came to the CPU each time that the GPU was waited for, and the rows.
    """
    monkeypatch = request.getfixturevalue("monkeypatch")
    task = load_task("reconstruction", data=write_pictures(folder, 4))
    on_cpu = Tokenizer(_planted_card(), _Planted("none"), state="synthetic")
    made = plan.make(
        on_cpu, task, batch_size=4, protocol=None, limit=None, label=None, step=None, require=(), originals=None
    )
    reads = [shards._read(task, index) for index in range(4)]
    distance = copy.deepcopy(inception)
    distance.device = torch.device("cuda")
    monkeypatch.setattr(frechet, "inception_features", lambda _: distance.pooled)
    waits: list[int] = []

    def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
        waits.append(len(tensors))
        return [torch.ones(tensor.shape, dtype=tensor.dtype) for tensor in tensors]

    def settle(found: Sequence[measures.Columns], beside: Sequence[Tensor] = ()) -> list[Tensor]:
        with unset_fake_temporarily():  # what came to the CPU is real
            return measures.settle(found, beside)

    monkeypatch.setattr(shards, "settle", settle)
    monkeypatch.setattr(devices, "fetch", fetch)
    monkeypatch.setattr(devices, "mark", lambda _: 0.0)
    monkeypatch.setattr(devices, "send", lambda tensor, device: tensor.to(device))  # nothing can be pinned here
    mode = request.getfixturevalue("fake")
    _faked(distance.network, mode)
    tokenizer = Tokenizer(_planted_card(), _faked(network, mode), device="cuda")
    context = dataclasses.replace(made.measures[0].context, device=torch.device("cuda"))
    found = [catalogue.find_metric(name) for name in ("psnr", "ssim", "rfid", "bpp", "code_usage")]
    made = dataclasses.replace(made, tokenizer=tokenizer, measures=measures.build(found, context))
    sheet = shards._Sheet(shards.Want(made, [0], lambda *_: None))
    sheet.take(Passes(made), reads, range(4), last=True)
    ((_, table),) = sheet.finished(4, last=True)
    return waits, table


def test_a_gpu_is_waited_for_once_a_batch(
    inception: metrics.FrechetDistance, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    waits, table = _batch(_Planted("none"), inception, tmp_path / "in", request)
    assert waits == [6], "psnr, ssim, features of both sides, codes, and the checks"
    assert table["psnr"].to_pylist() == [1.0] * 4 and table["reason"].null_count == 4


def test_a_gpu_that_is_asked_before_is_found(
    inception: metrics.FrechetDistance, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(DataDependentOutputException):
        _batch(_Planted("value"), inception, tmp_path / "in", request)


# --- what it is for ---------------------------------------------------------------------------------------------------


class _Planted(nn.Module):
    """A network that is right but for one mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        self.project = nn.Conv2d(3, 8, 16, 16)
        self.back = nn.ConvTranspose2d(8, 3, 16, 16)
        where = "cpu" if mistake == "codebook" else None
        codebook = torch.zeros(32, 8, device=where)
        if mistake == "codebook":
            self.codebook = codebook  # no buffer: .to() passes it over
        else:
            self.register_buffer("codebook", codebook)

    def encode(self, x: Tensor) -> Codes:
        found = self.project(x).permute(0, 2, 3, 1)
        indices = torch.cdist(found.flatten(0, 2), self.codebook).argmin(1).view(found.shape[:-1])
        if self.mistake == "value" and indices.max().item() > 31:
            raise AssertionError
        if self.mistake == "branch" and (indices == 0).all():
            indices = indices + 1
        if self.mistake == "choice":
            found = found[found > 0]
        return Codes(indices=(indices,), codebook_sizes=(32,))

    def decode(self, codes: Codes) -> Tensor:
        found = self.codebook[codes.indices[0]].permute(0, 3, 1, 2)
        if self.mistake == "constant":
            found = found + torch.arange(8.0).view(8, 1, 1)
        return self.back(found)


MISTAKES = {
    "codebook": (RuntimeError, "cpu"),
    "constant": (RuntimeError, "cpu"),
    "value": (DataDependentOutputException, "_local_scalar_dense"),
    "branch": (DataDependentOutputException, "_local_scalar_dense"),
    "choice": (DynamicOutputShapeException, "nonzero|index"),
}


def _planted_card() -> TokenizerCard:
    said = {"name": "planted", "family": "planted", "network": "planted", "kind": "discrete", "title": "Planted"}
    return TokenizerCard.model_validate(said | {"input": Input(multiple_of=16), "code": Code(codebook_sizes=(32,))})


@pytest.mark.parametrize(("mistake", "found"), MISTAKES.items(), ids=MISTAKES.keys())
def test_a_planted_mistake_is_found(mistake: str, found: tuple[type[Exception], str], fake: FakeTensorMode) -> None:
    with torch.device("cuda"):
        network = _Planted(mistake)
    with pytest.raises(found[0], match=found[1]):
        _round_trip(_planted_card(), network)


def test_the_network_without_a_mistake_passes(fake: FakeTensorMode) -> None:
    with torch.device("cuda"):
        network = _Planted("none")
    _round_trip(_planted_card(), network)
