"""A live model as a tokenizer: its numbers are those of its checkpoints, and nothing in it changes."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import math
import os
import random
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import small_task, write_pictures
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from vtbench import cards, evaluate, fingerprint, load_tokenizer, snapshot, wrap
from vtbench.errors import CardError, VtbenchError
from vtbench.measures import codes
from vtbench.results import Run
from vtbench.task import Task
from vtbench.tokenizer import Tokenizer, build_network
from vtbench.types import Codes

ROOT = Path(__file__).resolve().parent.parent
CODES = 16


class Counter(nn.Module):
    """A codebook that counts its use in every forward pass, whatever its mode."""

    used: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(CODES, 4))
        self.register_buffer("used", torch.zeros(CODES))
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def nearest(self, z: Tensor) -> Tensor:
        found = torch.cdist(z.permute(0, 2, 3, 1).flatten(0, 2), self.codes).argmin(1)
        self.used += torch.bincount(found, minlength=CODES)
        self.used.data.add_(1)
        self.last = self.last + 1
        return found.view(len(z), z.shape[2], z.shape[3])


class Model(nn.Module):
    """A small VQ with all that makes evaluation differ from training: dropout, batch norm, a frozen part, noise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.codebook = Counter()
        self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)
        self.frozen = nn.Dropout(0.5).eval()

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        self.frozen.eval()
        return self

    def indices(self, x: Tensor) -> Tensor:
        z = self.frozen(self.encoder(x))
        return self.codebook.nearest(z + 0.1 * torch.randn_like(z) + np.random.rand() + random.random())

    def quantised(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.codebook.codes).permute(0, 3, 1, 2)

    def encode(self, x: Tensor) -> Tensor:
        return self.indices(x)

    def decode(self, codes: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.quantised(codes))
        return picture

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().train()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return small_task(write_pictures(tmp_path_factory.mktemp("pictures") / "in", 3))


def psnr(tokenizer: Tokenizer, task: Task, out: Path | None = None) -> float:
    where = {} if out is None else {"work": out / "work"}
    value = evaluate(tokenizer, task, out=None if out is None else out / "results", **where).scores["psnr"].value
    assert value is not None
    return value


def value_of(run: Run) -> float | None:
    return run.scores["psnr"].value


# --- three steps ------------------------------------------------------------------------------------------------------


def train(network: nn.Module, steps: int) -> None:
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
        optimiser.zero_grad()
        F.mse_loss(network(x), x).backward()
        optimiser.step()


def test_three_steps_give_three_numbers_equal_to_those_of_their_checkpoints(task: Task, tmp_path: Path) -> None:
    card = cards.find_tokenizer("tiny-fsq-f8")
    torch.manual_seed(0)
    network = build_network(card).train()
    wrapped = wrap(network, name="mine", multiple_of=8)
    live, again, filed, saved = [], [], [], []
    for step in range(3):
        if step:
            train(network, 2)
        live.append(psnr(wrap(network, name="mine", multiple_of=8), task))
        again.append(psnr(wrapped, task))  # one Tokenizer for the whole training
        filed.append(psnr(wrapped, task, tmp_path))  # one folder, too
        path = tmp_path / f"{step}.pt"
        torch.save(network.state_dict(), path)
        saved.append(psnr(load_tokenizer(card, weights=path), task))
    assert live == again == filed == saved
    assert len(set(live)) == 3
    assert len(list((tmp_path / "results" / task.card.name).glob("mine~*.json"))) == 3


def test_what_no_checkpoint_holds_is_part_of_the_identity(model: Model) -> None:
    def identity() -> str:
        return wrap(model, name="mine", codebook_size=CODES).identity()[1] or ""

    first = identity()
    assert identity() == first
    for change in (
        lambda: model.codebook.last.add_(1),
        lambda: setattr(model, "temperature", 0.5),
        lambda: setattr(model, "temperature", 0.25),
        lambda: model.decoder.bias.data.add_(1),
    ):
        change()
        assert identity() != first
        first = identity()


def test_the_number_in_a_function_is_part_of_the_identity(model: Model) -> None:
    def scaled(scale: float) -> str | None:
        return wrap(model, name="mine", encode=lambda m, x: scale * m.encoder(x)).identity()[1]

    assert scaled(1.0) == scaled(1.0) != scaled(2.0)


class Act(enum.Enum):
    RELU = 1
    GELU = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    steps: int
    scales: list[int]


def cyclic(value: int) -> list[object]:
    found: list[object] = [value]
    return [found, found.append(found)]


class Holds(nn.Module):
    def __init__(self, held: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.held = held
        self.encode = self.decode = nn.Identity()


def digest(held: object) -> str | None:
    return wrap(Holds(held), name="mine").identity()[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"steps": 25}, {"steps": 5}),
        ([1, 2, 4], [1, 2]),
        ({"a", "b"}, {"a", "c"}),
        (None, 0),
        (1, True),
        ({"deep": [{"er": 1}]}, {"deep": [{"er": 2}]}),
        (types.SimpleNamespace(steps=1), types.SimpleNamespace(steps=2)),
        (Config(1, [2]), Config(1, [3])),
        (Act.RELU, Act.GELU),
        (torch.float16, torch.bfloat16),
        (F.relu, F.gelu),
        (lambda x: x, lambda x: 2 * x),
        (functools.partial(F.pad, mode="reflect"), functools.partial(F.pad, mode="replicate")),
        (nn.ReLU(), nn.SiLU()),
        (nn.ReLU, nn.SiLU),
        ([torch.zeros(2)], [torch.ones(2)]),
        ([nn.PReLU(init=0.1)], [nn.PReLU(init=0.2)]),
        (cyclic(1), cyclic(2)),
    ],
)
def test_whatever_an_attribute_holds_is_part_of_the_identity(one: object, other: object) -> None:
    assert digest(one) == digest(one) == digest(copy.deepcopy(one)) != digest(other)


@pytest.mark.parametrize(
    "held", [threading.Lock(), (x for x in ()), list(range(10**6)), functools.reduce(lambda x, _: [x], range(9999))]
)
def test_a_model_that_holds_what_cannot_be_told_is_never_taken_for_an_earlier_one(held: object) -> None:
    assert digest(held) != digest(held)


def test_what_moves_no_number_is_no_part_of_the_identity() -> None:
    """Mode, numbers of hooks, the device's name in this process, compilation, and what Lightning leaves out itself."""

    class Trained(Holds):
        def __getstate__(self) -> dict[str, object]:
            return {**vars(self), "trainer": None}

    def identity(of: nn.Module) -> str | None:
        return wrap(of, name="mine").identity()[1]

    first, second = Trained(torch.device("cuda:0")), Trained(torch.device("cuda:1"))
    for one in (first, second):
        one.trainer, one.handle = threading.Lock(), one.register_forward_hook(print)
    second.eval()
    assert identity(first) == identity(second)
    assert identity(torch.compile(first)) == identity(torch.compile(second))  # type: ignore[arg-type]


def test_what_a_function_holds_and_names_is_part_of_the_identity(model: Model) -> None:
    def shifted(by: dict[str, float]) -> str | None:
        return wrap(model, name="mine", decode=lambda m, z: m.decoder(z) + by["x"]).identity()[1]

    assert shifted({"x": 1.0}) == shifted({"x": 1.0}) != shifted({"x": 2.0})
    ways = (lambda m, x: m.encoder(x), lambda m, x: m.encoder(-x))
    assert len({wrap(model, name="mine", encode=way).identity()[1] for way in ways}) == 2


SCALE = 1.0


def rescaled(z: Tensor) -> Tensor:
    return z * SCALE


class Scaled(nn.Module):
    """Computes with what is no attribute of its own: its class's, its methods, and a global that a helper reads."""

    temperature = 1.0
    unused = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 8, 8)
        self.decoder = nn.ConvTranspose2d(4, 3, 8, 8)

    def encode(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return self.tempered(found)

    def tempered(self, z: Tensor) -> Tensor:
        return z * self.temperature

    def decode(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(rescaled(z))
        return picture

    def training_step(self) -> object:
        return LOCK


LOCK = threading.Lock()


def other_tempered(self: Scaled, z: Tensor) -> Tensor:
    return z * self.temperature * 2


def test_what_code_reaches_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scaled()

    def identity() -> str | None:
        return wrap(model, name="mine").identity()[1]

    changes: list[Callable[[], object]] = [
        lambda: monkeypatch.setattr(Scaled, "temperature", 0.1),
        lambda: monkeypatch.setattr(Scaled, "tempered", other_tempered),
        lambda: monkeypatch.setattr(sys.modules[__name__], "SCALE", 0.1),
        lambda: monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: self._conv_forward(2 * x, self.weight, None)),
        lambda: model.encoder.register_forward_hook(lambda module, given, found: 2 * found),
        lambda: model.encoder.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
    ]
    seen = [identity()]
    for change in changes:
        change()
        seen.append(identity())
        assert identity() == seen[-1]
    assert len(set(seen)) == len(seen)


def test_code_that_no_evaluation_reaches_is_no_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scaled()
    first = wrap(model, name="mine").identity()
    assert wrap(copy.deepcopy(model), name="mine").identity() == first
    monkeypatch.setattr(Scaled, "unused", 0.1)
    monkeypatch.setattr(Scaled, "training_step", other_tempered)
    assert wrap(model, name="mine").identity() == first


def test_a_global_that_a_function_reads_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity() -> str | None:
        return wrap(Holds(None), name="mine", decode=lambda m, z: m.decode(rescaled(z))).identity()[1]

    first = identity()
    assert identity() == first
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 0.1)
    assert identity() != first


def test_a_global_that_is_called_as_an_attribute_is_no_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Scaled()
    first = wrap(model, name="mine").identity()
    monkeypatch.setattr(sys.modules[__name__], "temperature", "cuda:0", raising=False)
    monkeypatch.setattr(sys.modules[__name__], "encoder", LOCK, raising=False)
    assert wrap(model, name="mine").identity() == first


def test_an_object_without_a_state_of_its_own_is_never_taken_for_an_earlier_one() -> None:
    found = wrap(lambda x: x, name="same")
    assert found.identity() != found.identity()


# --- nothing changes --------------------------------------------------------------------------------------------------


def surroundings(model: nn.Module) -> dict[str, object]:
    """Everything that evaluation must leave alone."""
    found: dict[str, object] = {"grad": torch.is_grad_enabled(), "python": random.getstate()}
    name, keys, *rest = np.random.get_state()
    found |= {"numpy": (name, keys.tobytes(), *rest), "torch": torch.get_rng_state().numpy().tobytes()}
    found["seed"] = torch.initial_seed()
    for path, part in model.named_modules():
        found[f"{path} mode"] = part.training
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            gradient = None if tensor.grad is None else (id(tensor.grad), tensor.grad.float().numpy().tobytes())
            said = (id(tensor), tensor.dtype, tensor.device, tensor.requires_grad, gradient)
            found[f"{path}.{name}"] = (*said, tensor.detach().float().numpy().tobytes())
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_in_the_model_or_around_it_changes(model: Model, task: Task, dtype: torch.dtype) -> None:
    model.to(dtype)
    model.decoder(model.encoder(torch.randn(2, 3, 64, 64, dtype=dtype))).sum().backward()
    model.decoder.requires_grad_(False)
    before = surroundings(model)
    wrapped = wrap(model, name="mine", codebook_size=CODES)
    numbers = {psnr(wrapped, task) for _ in range(2)}
    assert len(numbers) == 1
    assert surroundings(model) == before
    assert wrapped.precision == ("fp32" if dtype == torch.float32 else "bf16")
    assert not model.frozen.training
    assert model.encoder[2].training


def test_nothing_changes_where_the_model_fails(model: Model, task: Task) -> None:
    before = surroundings(model)

    def breaks(module: Model, x: Tensor) -> Tensor:
        module.indices(x)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        evaluate(wrap(model, name="mine", codebook_size=CODES, encode=breaks), task, out=None)
    assert surroundings(model) == before


def test_evaluation_between_forward_and_backward_leaves_the_gradients_right(model: Model, task: Task) -> None:
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for one, evaluated in ((twin, False), (model, True)):
        torch.manual_seed(3)
        loss = one.decoder(one.encoder(x)).square().mean()
        if evaluated:
            evaluate(wrap(one, name="mine", codebook_size=CODES), task, out=None)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_autocast_and_inference_of_the_surroundings_move_no_number(model: Model, task: Task) -> None:
    wrapped = wrap(model, name="mine", codebook_size=CODES)
    plain = psnr(wrapped, task)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert psnr(wrapped, task) == plain
        assert torch.is_autocast_enabled("cpu")


WRITES_NOTHING = """
import os, torch
from torch import nn
from vtbench import evaluate, wrap
run = evaluate(wrap(nn.Conv2d(3, 3, 1), name="mine"), "reconstruction", out=None, limit=2)
assert run.scores["psnr"].value is not None and run.scores["lpips"].value is not None
run = evaluate(wrap(nn.Conv2d(3, 3, 1), name="mine"), "text", out=None, limit=1)
assert run.scores["cer"].value is not None
"""


@pytest.mark.heavy  # seconds of many processes or networks
def test_nothing_is_written(tmp_path: Path) -> None:
    """Not beside the script, not in the home folder, not among temporary files; also no cache of readings."""
    files = tmp_path / "files"
    folders = {"HOME": tmp_path / "home", "TMPDIR": tmp_path / "tmp"}
    for folder in (files, *folders.values()):
        folder.mkdir()
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}, "PYTHONPATH": str(ROOT)}
    # The networks of metrics lie in the real home folder's cache.
    real = Path.home()
    environment.setdefault("VTBENCH_CACHE", str(Path(os.environ.get("XDG_CACHE_HOME", real / ".cache")) / "vtbench"))
    environment.setdefault("TORCH_HOME", str(real / ".cache" / "torch"))
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", WRITES_NOTHING], cwd=files, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(files.iterdir()) == []


# --- what a pass leaves as it was -------------------------------------------------------------------------------------


class Toy(nn.Module):
    """Encodes and decodes by one layer each; `during` is done to it in every forward pass of the encoder."""

    def __init__(self, during: Callable[[Any], object] = lambda toy: None) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 4, 8, 8), nn.ConvTranspose2d(4, 3, 8, 8)
        self.book = nn.Parameter(torch.ones(4), requires_grad=False)
        self.during = during

    def encode(self, x: Tensor) -> Tensor:
        self.during(self)
        latent: Tensor = self.encoder(x) * self.book.view(1, -1, 1, 1)
        return latent

    def decode(self, z: Tensor) -> Tensor:
        picture: Tensor = self.decoder(z)
        return picture

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


LEVELS = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "hold",
    [
        lambda part: [part],
        lambda part: {"a": [part]},
        lambda part: types.SimpleNamespace(part=part),
        lambda part: lambda x: part(x),
        lambda part: [Holds([part])],
    ],
    ids=["list", "dict", "namespace", "function", "module"],
)
def test_modules_in_plain_attributes_of_a_module_are_in_evaluation_mode_too(hold: Callable[[object], object]) -> None:
    part = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    toy = Toy()
    toy.inner = nn.Module()
    toy.inner.beside = hold(part)
    before, seen = surroundings(part), []
    toy.during = lambda toy: seen.append((part[1].training, part(torch.rand(2, 3, 4, 4))))
    wrap(toy, name="mine").reconstruct(LEVELS)
    assert not seen[0][0]
    assert surroundings(part) == before


def test_lists_of_data_are_not_searched_for_modules() -> None:
    read = []

    class Counted(list[object]):
        def __iter__(self) -> Iterator[object]:
            read.append(len(self))
            return super().__iter__()

    part = nn.Dropout()
    model = Holds(Counted(Counted([0.5] * 900) for _ in range(900)))
    model.beside = [[part]]
    assert snapshot.hidden(model) == [part]
    assert sum(read) <= 2000


def test_a_model_whose_tensors_are_all_hidden_is_where_they_are() -> None:
    holds = nn.Module()
    holds.encode = holds.decode = lambda x: x
    holds.beside = [Toy().bfloat16()]
    wrapped = wrap(holds, name="mine")
    assert wrapped.precision == "bf16"
    assert wrapped.parameters == sum(p.numel() for p in holds.beside[0].parameters())


def swap(toy: Toy) -> None:
    toy.book.data = toy.book.data * 0.9


def rebind(toy: Toy) -> None:
    toy.book = nn.Parameter(toy.book * 0.9)


@pytest.mark.parametrize(
    "change",
    [
        lambda toy: toy.book.mul_(0.9),
        lambda toy: toy.book.data.mul_(0.9),
        lambda toy: toy.encoder.weight.data.mul_(0.9),
        swap,
        rebind,
    ],
    ids=["in place", "its data", "trained", "swapped", "rebound"],
)
def test_parameters_that_a_pass_changes_are_put_back(change: Callable[[Toy], object]) -> None:
    toy = Toy(change)
    before = surroundings(toy)
    wrapped = wrap(toy, name="mine")
    first, second = wrapped.reconstruct(LEVELS), wrapped.reconstruct(LEVELS)
    assert surroundings(toy) == before
    assert torch.equal(first, second)


def test_a_pass_that_changes_nothing_is_none_to_autograd_and_copies_parameters_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = Toy()
    toy.register_buffer("mask", torch.tensor([math.nan, math.inf]))
    versions = [tensor._version for tensor in toy.state_dict(keep_vars=True).values()]
    loss = (toy.mask * toy.encoder(torch.rand(1, 3, 8, 8)).sum()).sum()
    wrapped = wrap(toy, name="mine")
    wrapped.reconstruct(LEVELS)
    assert [tensor._version for tensor in toy.state_dict(keep_vars=True).values()] == versions
    loss.backward()

    copied = []
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda tensor, *a, **k: (copied.append(k.get("copy")), to(tensor, *a, **k))[1])
    wrapped.reconstruct(LEVELS)
    assert not any(copied)


def test_a_parameter_that_only_a_later_pass_changes_is_told(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy()
    wrapped = wrap(toy, name="mine")
    wrapped.reconstruct(LEVELS)
    toy.during = lambda toy: toy.book.mul_(0.9)
    wrapped.reconstruct(LEVELS)
    assert "a parameter of shape (4,)" in caplog.text
    book = toy.book.clone()
    wrapped.reconstruct(LEVELS)
    assert torch.equal(toy.book, book)


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (torch.Generator().manual_seed(1), lambda own: float(torch.rand(1, generator=own))),
        (np.random.default_rng(1), lambda own: own.random()),
        (np.random.Generator(np.random.MT19937(1)), lambda own: own.random()),
        (np.random.RandomState(1), lambda own: own.rand()),
        (random.Random(1), lambda own: own.random()),
        (random.SystemRandom(), lambda own: 0.5 + 0 * own.random()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_generators_of_the_models_own_stand_where_they_stood(generator: object, draw: Callable[[Any], float]) -> None:
    drawn: list[float] = []
    toy = Toy(lambda toy: drawn.append(draw(toy.numbers[0])))
    toy.numbers = [generator]
    wrapped = wrap(toy, name="mine")
    wrapped.reconstruct(LEVELS)
    wrapped.reconstruct(LEVELS)
    assert drawn[0] == drawn[1] == draw(generator)


def test_buffers_that_a_pass_registers_are_gone_with_what_says_that_they_are_there() -> None:
    def register(toy: Any) -> None:
        if not toy.ready:
            toy.register_buffer("kept", torch.zeros(2))
            toy.register_buffer("table", torch.zeros(2), persistent=False)
            toy.register_parameter("more", nn.Parameter(torch.zeros(2)))
            toy.ready = True
        toy.table.add_(1)

    toy = Toy(register)
    toy.ready = False
    names = list(toy.state_dict())
    wrapped = wrap(toy, name="mine")
    wrapped.reconstruct(LEVELS)
    wrapped.reconstruct(LEVELS)
    assert list(toy.state_dict()) == names
    assert not toy.ready
    assert not toy._non_persistent_buffers_set
    toy(torch.rand(1, 3, 8, 8))
    assert "kept" in toy.state_dict()


@pytest.mark.parametrize(
    ("add", "told"),
    [
        (lambda toy: toy.register_buffer("a", torch.eye(3).to_sparse()), False),
        (lambda toy: toy.register_buffer("a", torch.ones(2, device="meta")), False),
        (lambda toy: toy.register_buffer("a", torch.randn(4, dtype=torch.complex64).conj()), True),
        (lambda toy: setattr(toy, "a", nn.LazyLinear(4)), False),
        (lambda toy: setattr(toy, "a", torch.randn(3, dtype=torch.complex64).conj().imag), True),
    ],
    ids=["sparse", "meta", "conjugated", "lazy", "negated"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_tensors_that_can_not_be_compared_end_nothing(
    add: Callable[[nn.Module], object], told: bool, task: Task
) -> None:
    toy = Toy()
    add(toy)
    toy.register_buffer("used", torch.zeros(1))
    toy.during = lambda toy: toy.used.add_(1)
    wrapped = wrap(toy, name="mine")
    assert evaluate(wrapped, task, out=None, limit=1).scores["psnr"].value is not None
    assert float(toy.used) == 0
    assert (wrapped.identity() == wrapped.identity()) == told


def test_a_sparse_buffer_that_a_pass_changes_is_put_back() -> None:
    toy = Toy(lambda toy: toy.a.mul_(2))
    toy.register_buffer("a", torch.eye(3).to_sparse())
    wrap(toy, name="mine").reconstruct(LEVELS)
    assert torch.equal(toy.a.to_dense(), torch.eye(3))


# --- what is looked through -------------------------------------------------------------------------------------------


def test_averaged_compiled_and_distributed_models_are_the_model_within(alone: None) -> None:
    class Collective(nn.parallel.DistributedDataParallel):
        def forward(self, *given: object) -> object:
            raise AssertionError("a collective")

    toy = Toy()
    plain = wrap(toy, name="mine")
    distributed = Collective(toy)
    for wrapper in (
        distributed,
        torch.compile(distributed, backend="eager"),
        torch.compile(toy, backend="eager"),
        AveragedModel(toy),
        AveragedModel(torch.compile(toy, backend="eager")),
    ):
        wrapped = wrap(wrapper, name="mine")
        assert wrapped.card.kind == "continuous"
        assert torch.equal(wrapped.reconstruct(LEVELS), plain.reconstruct(LEVELS))
        assert wrapped.identity() == plain.identity()
    called = wrap(lambda x: distributed(x), name="mine").reconstruct(LEVELS)
    assert torch.equal(called, plain.reconstruct(LEVELS))
    assert "forward" not in vars(distributed)


def test_a_compiled_module_is_told_as_the_module() -> None:
    toy = Toy()
    plain = fingerprint.module_digest(toy)
    assert fingerprint.module_digest(torch.compile(toy, backend="eager")) == plain  # type: ignore[arg-type]
    whole = fingerprint.module_digest(nn.Sequential(toy))
    assert fingerprint.module_digest(nn.Sequential(torch.compile(toy, backend="eager"))) == whole  # type: ignore[arg-type]
    toy.compile(backend="eager")
    assert fingerprint.module_digest(toy) == plain


class Reconstructs(nn.Module):
    """A module that is only called."""

    def __init__(self, toy: nn.Module) -> None:
        super().__init__()
        self.toy = toy

    def forward(self, x: Tensor) -> Tensor:
        picture: Tensor = self.toy(x)
        return picture


def test_a_part_that_has_the_codes_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert wrap(Reconstructs(Toy()), name="mine").card.kind == "opaque"
    assert (
        "mine: a Reconstructs has no encode and decode, so nobody sees its codes; its part toy has both" in caplog.text
    )


def test_autocast_that_trainers_put_around_forward_moves_no_number() -> None:
    accelerate, fabric = pytest.importorskip("accelerate"), pytest.importorskip("lightning.fabric")
    net = Reconstructs(nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ConvTranspose2d(8, 3, 8, 8)))
    plain = wrap(net, name="mine").reconstruct(LEVELS)
    cast = fabric.Fabric(accelerator="cpu", precision="bf16-mixed").setup(net)
    assert torch.equal(wrap(cast, name="mine").reconstruct(LEVELS), plain)
    assert torch.equal(wrap(lambda x: cast(x), name="mine").reconstruct(LEVELS), plain)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(net)
    forward, x = vars(net)["forward"], torch.rand(1, 3, 8, 8)
    trained = net(x)
    assert torch.equal(wrap(accelerator.unwrap_model(prepared), name="mine").reconstruct(LEVELS), plain)
    assert vars(net)["forward"] is forward
    assert torch.equal(net(x), trained)


def test_a_model_of_several_types_is_fed_its_firsts_and_named_by_the_narrowest() -> None:
    fed = []

    def wrapped(first: torch.dtype, rest: torch.dtype) -> Tokenizer:
        toy = Toy()
        toy.book.data = toy.book.data.to(first)
        toy.encoder.to(first)
        toy.decoder.to(rest)
        toy.register_buffer("levels", torch.zeros(1, dtype=torch.float64))
        encode = lambda m, x: (fed.append(x.dtype), m.encode(x))[1]  # noqa: E731
        return wrap(toy, name="mine", encode=encode, decode=lambda m, z: m.decode(z.to(rest)))

    for first, rest, said in (
        (torch.bfloat16, torch.float32, "bf16"),
        (torch.float32, torch.bfloat16, "bf16"),
        (torch.float32, torch.float16, "fp16"),
        (torch.float16, torch.bfloat16, "bf16"),
        (torch.float32, torch.float32, "fp32"),
    ):
        tokenizer = wrapped(first, rest)
        assert tokenizer.precision == said
        tokenizer.reconstruct(LEVELS)
        assert fed.pop() == first


@pytest.mark.parametrize("given", [lambda m: m, lambda m: lambda x: m(x)], ids=["methods", "called"])
def test_weights_that_processes_share_out_are_refused_in_one_line(
    given: Callable[[nn.Module], Any], alone: None
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    toy = Toy()
    toy.book.requires_grad_(True)
    fully_shard(toy, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(VtbenchError, match="mine: its weights are shared out over processes") as found:
        wrap(given(toy), name="mine")
    assert "\n" not in str(found.value)


# --- what may be wrapped ----------------------------------------------------------------------------------------------


class Plain:
    """No nn.Module: a trainer that holds the parts of its model."""

    def __init__(self, model: Model) -> None:
        self.parts = {"encoder": model.encoder, "rest": [model.decoder]}

    def encode(self, x: Tensor) -> Tensor:
        latent: Tensor = self.parts["encoder"](x)
        return latent

    def decode(self, z: Tensor) -> Tensor:
        picture: Tensor = self.parts["rest"][0](z)
        return picture


GLOBAL = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))


def latent_of(module: Model, x: Tensor) -> Tensor:
    assert isinstance(module, Model)
    latent: Tensor = module.encoder(x)
    return latent


def as_codes(module: Model, x: Tensor) -> Codes:
    return Codes(indices=(module.indices(x),), codebook_sizes=(CODES,))


def from_codes(module: Model, codes: Codes) -> Tensor:
    assert isinstance(codes, Codes)
    return module.decode(codes.indices[0])


def scales(module: Model, x: Tensor) -> list[Tensor]:
    found = module.indices(x).to(torch.int32)
    return [found[:, ::2, ::2], found]


def from_scales(module: Model, codes: list[Tensor]) -> Tensor:
    coarse, fine = codes
    assert coarse.dtype == fine.dtype == torch.int32
    assert coarse.shape[1] * 2 == fine.shape[1]
    return module.decode(fine)


@pytest.mark.parametrize(
    ("given", "kind", "sizes", "bits"),
    [
        (lambda m: wrap(m, name="mine", codebook_size=CODES), "discrete", (CODES,), 64 * 4),
        (lambda m: wrap(m, name="mine", encode=as_codes, decode=from_codes), "discrete", (CODES,), 64 * 4),
        (
            lambda m: wrap(m, name="mine", codebook_size=CODES, encode=scales, decode=from_scales),
            "discrete",
            (CODES, CODES),
            80 * 4,
        ),
        (
            lambda m: wrap(m, name="mine", encode=latent_of, decode=lambda m, z: m.decoder(z)),
            "continuous",
            (),
            None,
        ),
        (lambda m: wrap(Plain(m), name="mine"), "continuous", (), None),
        (lambda m: wrap(m.forward, name="mine"), "opaque", (), None),
        (lambda m: wrap(lambda x: m(x), name="mine"), "opaque", (), None),
        (lambda m: wrap(functools.partial(latent_and_back, m), name="mine"), "opaque", (), None),
        (lambda m: wrap(nn.DataParallel(m), name="mine", codebook_size=CODES), "discrete", (CODES,), 64 * 4),
    ],
    ids=["indices", "codes", "scales", "functions", "object", "bound-method", "closure", "partial", "data-parallel"],
)
def test_all_that_may_be_wrapped(
    model: Model,
    task: Task,
    given: Callable[[Model], Tokenizer],
    kind: str,
    sizes: tuple[int, ...],
    bits: float | None,
) -> None:
    before = surroundings(model)
    run = evaluate(given(model), task, out=None)
    assert surroundings(model) == before
    assert run.kind == kind
    assert value_of(run) is not None
    assert run.parameters >= sum(p.numel() for p in (*model.encoder.parameters(), *model.decoder.parameters()))
    assert value_of(run) == value_of(evaluate(given(model), task, out=None))
    if kind == "discrete":
        assert run.scores["bpp"].value == pytest.approx((bits or 0) / 64**2)
        assert run.codebook_sizes in (sizes, sizes[:1])
    else:
        assert run.scores["bpp"].value is None
        assert (run.scores["latent_values"].value is None) == (kind == "opaque")
        assert not any(name.endswith("/bpp") for name in run.flat())
    if kind == "opaque":
        assert run.scores["latent_values"].reason == codes.UNSEEN


def latent_and_back(module: Model, x: Tensor) -> Tensor:
    picture: Tensor = module.decoder(module.encoder(x))
    return picture


def test_modules_that_functions_name_are_in_evaluation_mode_too(model: Model) -> None:
    """Dropout at work would be seen: a picture of ones is kept or not, never doubled."""
    seen = []

    def both(module: Model, x: Tensor) -> Tensor:
        seen.append((module.training, GLOBAL.training, other.training))
        return other(GLOBAL(module.encoder[2](x)))

    other = nn.Dropout(0.5)
    GLOBAL.train()
    wrap(model, name="mine", encode=both, decode=lambda module, z: z).reconstruct(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    )
    assert seen == [(False, False, False)]
    assert GLOBAL.training
    assert other.training
    assert model.training


def test_pictures_are_padded_and_cropped(model: Model) -> None:
    wrapped = wrap(model, name="mine", codebook_size=CODES, multiple_of=8)
    assert wrapped.reconstruct(torch.zeros(1, 3, 20, 13, dtype=torch.uint8)).shape == (1, 3, 20, 13)


def test_the_range_is_the_models(task: Task) -> None:
    for span in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        seen: list[Tensor] = []

        def keep(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return x

        levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
        assert torch.equal(wrap(keep, name="same", range=span).reconstruct(levels), levels)
        assert (float(seen[0].min()), float(seen[0].max())) == span


# --- one line each ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda m: wrap(m, name="Not a name"), CardError, "name: string should match"),
        (lambda m: wrap(m, name=3), CardError, "name: input should be a valid string"),
        (lambda m: wrap(m, name="mine", range=(0,)), CardError, "expected two numbers"),
        (lambda m: wrap(m, name="mine", range=None), CardError, "expected two numbers"),
        (lambda m: wrap(m, name="mine", range=(1, 1)), CardError, "expected two numbers"),
        (lambda m: wrap(m, name="mine", multiple_of=0), CardError, "multiple_of: input should be greater"),
        (lambda m: wrap(m, name="mine", codebook_size=0), VtbenchError, "codebook_size 0: expected a whole number"),
        (lambda m: wrap(m, name="mine", codebook_size=16.0), VtbenchError, "codebook_size 16.0: expected a whole"),
        (lambda m: wrap(m, name="mine", encode="encode"), VtbenchError, "encode: got a str; expected a function"),
        (lambda m: wrap(m.double(), name="mine"), VtbenchError, "mine: its weights are float64; expected float32"),
        (lambda m: wrap(3, name="mine"), VtbenchError, "a int has no encode and decode"),
        (lambda m: wrap(object(), name="mine", encode=latent_of), VtbenchError, "has no decode; give it as decode="),
    ],
)
def test_wrong_arguments_are_one_line(
    model: Model, make: Callable[[Model], Tokenizer], error: type[VtbenchError], said: str
) -> None:
    with pytest.raises(error, match=said) as found:
        make(model)
    assert "\n" not in str(found.value)


def nothing(module: Model, codes: object) -> object:
    return {"sample": codes}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda m: wrap(m, name="mine"), "encode gave integers; say of how many codes, with codebook_size="),
        (lambda m: wrap(m, name="mine", codebook_size=4), "encode gave indices from .* expected 0 to 3"),
        (lambda m: wrap(m, name="mine", codebook_size=CODES, encode=latent_of), "gives latent, expected indices"),
        (lambda m: wrap(m, name="mine", encode=lambda m, x: (x, x)), "encode gave tensors of float32, float32"),
        (
            lambda m: wrap(m, name="mine", codebook_size=CODES, encode=lambda m, x: (m.indices(x), x)),
            "encode gave tensors of int64, float32; expected Codes, one float tensor",
        ),
        (lambda m: wrap(m, name="mine", encode=lambda m, x: {"z": x}), "encode gave a dict; expected Codes"),
        (lambda m: wrap(m, name="mine", encode=latent_of, decode=nothing), "the model gave a dict, .* give decode="),
        (lambda m: wrap(lambda x: (x, x), name="mine"), "the model gave a tuple, .* wrap a function that takes it out"),
    ],
)
def test_what_can_not_be_codes_or_pictures_ends_the_evaluation_in_one_line(
    model: Model, task: Task, make: Callable[[Model], Tokenizer], said: str
) -> None:
    with pytest.raises(VtbenchError, match=said) as found:
        evaluate(make(model), task, out=None)
    assert "\n" not in str(found.value)
