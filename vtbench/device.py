"""Devices: which one to take, its name, waiting for it, layout and exact arithmetic. Only this file does these."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from vtbench.errors import CardError, NoMemoryError, VtbenchError

P = ParamSpec("P")
T = TypeVar("T")


NUMBER = "VTBENCH_LOCAL_RANK"
"""The variable by which a process that started others on its machine numbers them, from 1; its own number is 0."""


def pick(device: str) -> str:
    """Resolve "auto" and "cuda", and refuse a device that can't be used here (`unusable`).

    Both are the GPU of this process's number, where torchrun or `Team.start` gave it one, and the first GPU without it.
    Where there is no GPU, "auto" is the CPU.

    Raises:
        VtbenchError: naming the device.
    """
    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    if device in ("auto", "cuda") and torch.cuda.is_available():
        number = os.environ.get(NUMBER)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # without it $LOCAL_RANK may be anybody's
            number = os.environ.get("LOCAL_RANK", "0")
        return "cuda" if number is None else f"cuda:{int(number) % torch.cuda.device_count()}"
    try:
        torch.device(device)
    except RuntimeError as error:
        raise VtbenchError(
            f"device {device!r}: there is none of this name; expected auto, cpu, cuda or cuda:1"
        ) from error
    if reason := unusable(device):
        raise VtbenchError(f"device {device!r} can't be used here ({reason}); try --device cpu or auto")
    return device


def unusable(device: str | torch.device) -> str | None:
    """Say why a device can't be used: it is not here, or has no float64 (mps), by which levels become floats."""
    try:
        torch.empty(0, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError) as error:
        return " ".join(str(error).split()).split(". ")[0] or type(error).__name__
    return None


def model(device: torch.device) -> str:
    """Say which kind of device it is: what of a device can move a number beyond its last digits.

    A CPU's threads, and the instructions that its model has, move those alone; a run may go on with others.
    """
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.machine()}"


def name(device: torch.device) -> str:
    """Say which device it was, as its maker calls it, and with how many threads a CPU computed."""
    return f"{model(device)}, {torch.get_num_threads()} threads" if device.type == "cpu" else model(device)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


Mark: TypeAlias = "float | torch.cuda.Event"
"""A moment in what a device does."""


def mark(device: torch.device) -> Mark:
    """Mark a moment in what a device does, for `between`; a GPU is not made to wait for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def between(first: Mark, second: Mark) -> float:
    """Give the seconds between two marks of one device."""
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000
    assert isinstance(first, float) and isinstance(second, float)
    return second - first


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU's to a device; to a GPU from pinned memory, while the GPU goes on computing."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def constant(values: float | Sequence[Any], device: torch.device) -> Tensor:
    """Put numbers, or rows of them, on a device as float64; filled in there, since a GPU is waited for at each copy."""
    if isinstance(values, Sequence):
        return torch.stack([constant(value, device) for value in values])
    return torch.full((), values, dtype=torch.float64, device=device)


def fetch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Bring tensors of any devices to the CPU; a GPU is waited for once, whatever their number."""
    found = []
    for tensor in tensors:
        if tensor.device.type == "cuda":
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            found.append(host.copy_(tensor, non_blocking=True))
        else:
            found.append(tensor.cpu())
    for place in {tensor.device for tensor in tensors if tensor.device.type == "cuda"}:
        torch.cuda.current_stream(place).synchronize()
    return found


CPU = torch.device("cpu")

_NO_MEMORY = (
    *("can't allocate memory", "not enough memory"),  # torch's of the CPU's
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
"""What errors say that have no class of their own."""


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Tell memory that ends, of a GPU or of the CPU, from all other errors.

    Raises:
        NoMemoryError: if the last of it was wanted within.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(one in said for one in _NO_MEMORY):
            raise
        # Tensors live on in the frames that the error holds, and torch keeps freed memory to itself, where cuBLAS and
        # cuDNN, which take their own, can't have it.
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        raise NoMemoryError(said.partition("\n")[0] or "out of memory") from error


def lay_out(network: nn.Module) -> None:
    """Keep the kernels of flat convolutions in the order of memory that half precision is computed fastest in.

    Channels come last. Values move as much as by another order of summation, which float32 would show: by up to 3e-5 in
    latents, beyond what its networks are held to. What such a convolution gives has its channels last too, and can't be
    flattened by `view`: networks and parts of others, packages' and users', stay as they are.
    """
    if type(network).__module__.partition(".")[0] not in ("torch", "vtbench"):
        return
    if isinstance(network, nn.Conv2d | nn.ConvTranspose2d):
        network.weight.data = network.weight.data.contiguous(memory_format=torch.channels_last)
    for part in network.children():
        lay_out(part)


def compiled(work: Callable[P, T], name: str) -> Callable[P, T]:
    """Compile a network's function with torch.compile, at its first call and whenever sizes differ from those before.

    Raises:
        CardError: from the call, if the device's compiler is missing or can't do it.
    """
    fast = torch.compile(work)

    def called(*given: P.args, **named: P.kwargs) -> T:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*given, **named)
        except TorchDynamoException as error:
            why = getattr(error, "inner_exception", error)  # a compiler's own error stands inside
            lines = str(why).strip().splitlines()
            said = f"{type(why).__name__}: {lines[0] if lines else ''}"
            raise CardError(f"{name}: torch can't compile it here ({said}); leave --compile out") from error

    return called


_SET: list[tuple[torch.dtype, torch.device]] = []
"""What the process had set for tensors of no stated type and device, before each `plain` that holds."""


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Make tensors of no stated type and device as torch does by itself: float32, on the CPU.

    A process may have set others (`torch.set_default_dtype`, `torch.set_default_device`), which round weights and move
    constants. What it has set holds again afterwards.
    """
    before = torch.get_default_dtype(), torch.get_default_device()
    if before == (torch.float32, CPU):  # under any other device torch takes a way around at each of its calls
        yield
        return
    _SET.append(before)
    try:
        with _made(torch.float32, CPU):
            yield
    finally:
        _SET.pop()


@contextlib.contextmanager
def as_set() -> Iterator[None]:
    """Within `plain`, make tensors as the process had set it: somebody's live model may count on that."""
    if not _SET:
        yield
        return
    with _made(*_SET[-1]):
        yield


@contextlib.contextmanager
def _made(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


_BACKENDS: Any = torch.backends
_SWITCHES = (
    *(_BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn),
    *(_BACKENDS.mkldnn.matmul, _BACKENDS.mkldnn.conv, _BACKENDS.mkldnn.rnn),
)
"""Where torch says in which precision float32 is really computed: cuBLAS, cuDNN and oneDNN."""


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Compute as the types say: no TensorFloat-32, no autocast of the surroundings, deterministic convolutions.

    cuDNN rounds the inputs of float32 convolutions to 10 bits unless told otherwise, matrix products may, and a
    training loop may run under autocast; each moves a value in the third to fourth digit from one GPU to another.
    What was set before is set again afterwards.
    """
    before = [(place, place.fp32_precision) for place in _SWITCHES]
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    try:
        for place, _ in before:
            place.fp32_precision = "ieee"
        cudnn.deterministic, cudnn.benchmark = True, False
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
        for place, value in before:
            place.fp32_precision = value
