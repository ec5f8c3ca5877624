from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vtbench import files, weights
from vtbench.cards import WeightsSource
from vtbench.errors import WeightsError


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("mask", torch.tensor([1.0, 2.0]), persistent=False)


class Renamed(Toy):
    @staticmethod
    def published_name(name: str) -> str:
        return f"model.{name}"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return weights.synthetic_state(Toy())


# --- strict loading ---------------------------------------------------------------------------------------------------


def test_every_tensor_arrives(state: dict[str, torch.Tensor]) -> None:
    toy = Toy()
    weights.load_state(toy, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in toy.state_dict().items())


def test_published_names_are_looked_up(state: dict[str, torch.Tensor]) -> None:
    toy = Renamed()
    weights.load_state(toy, {f"model.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(toy.conv.weight, state["conv.weight"])
    with pytest.raises(WeightsError, match=r"missing \(model\.conv\.weight"):
        weights.load_state(toy, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv.bias"), r"1 missing \(conv\.bias\)"),
        (lambda s: s.update(foreign=torch.zeros(1)), r"1 unexpected \(foreign\)"),
        (lambda s: s.update({"conv.bias": torch.zeros(5)}), r"1 wrong shape \(conv\.bias \(5,\) instead of \(4,\)\)"),
        (lambda s: s.update(mask=torch.tensor([1.0, 3.0])), r"1 another constant \(mask\)"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_overwritten(
    state: dict[str, torch.Tensor], change: object, message: str
) -> None:
    toy = Toy()
    before = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    change(state)
    with pytest.raises(WeightsError, match=message):
        weights.load_state(toy, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.state_dict().items())


def test_constants_may_be_in_the_file_when_they_are_the_same(state: dict[str, torch.Tensor]) -> None:
    weights.load_state(Toy(), state | {"mask": torch.tensor([1.0, 2.0])})


def test_half_precision_file_is_usable_at_full_precision(state: dict[str, torch.Tensor]) -> None:
    toy = Toy()
    weights.load_state(toy, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert toy.conv.weight.dtype == torch.float32


# --- made-up weights --------------------------------------------------------------------------------------------------


def test_fill_is_pinned() -> None:
    """Values of the rule, computed once; other implementations of the rule give the same."""
    kernel = weights.fill_values("decoder.conv_in.weight", (2, 3, 3, 3))
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel.flatten()[:3], FILL["kernel"], rtol=1e-6)
    np.testing.assert_allclose(weights.fill_values("norm.bias", (2,)), FILL["bias"], rtol=1e-6)
    np.testing.assert_allclose(weights.fill_values("norm.weight", (2,), seed=1), FILL["weight"], rtol=1e-6)
    assert (weights.fill_values("norm.running_var", (64,)) >= 1).all()


FILL = {
    "kernel": [-0.053236999, 0.31184098, 0.11770329],
    "bias": [-0.15460964, -0.0088272048],
    "weight": [1.0941538, 1.0915902],
}


# --- containers -------------------------------------------------------------------------------------------------------


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_published_layouts_give_the_same_tensors(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    plain = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    averages = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in state.items()}
    extra = {"loss.discriminator.weight": torch.ones(3), "model_ema.decay": torch.tensor(0.999)}
    lightning = {"state_dict": plain | averages | extra, "epoch": 3, "optimizer_states": [{"lr": 1e-4}]}
    torch.save(lightning, tmp_path / "ema.ckpt")
    source = WeightsSource(file="x", key="state_dict", ema_prefix="model_ema.", drop=("loss.",))
    assert equal(weights.read(tmp_path / "ema.ckpt", source), state)

    torch.save({"model": state, "steps": 7}, tmp_path / "model.pt")
    assert equal(weights.read(tmp_path / "model.pt", WeightsSource(file="x", key="model")), state)
    torch.save(state, tmp_path / "bare.pth")
    assert equal(weights.read(tmp_path / "bare.pth", WeightsSource(file="x")), state)
    save_file(state, tmp_path / "safe.safetensors")
    assert equal(weights.read(tmp_path / "safe.safetensors"), state)


def test_an_averaged_copy_that_is_not_there_is_an_error(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"state_dict": state}, tmp_path / "plain.ckpt")
    source = WeightsSource(file="x", key="state_dict", ema_prefix="model_ema.")
    with pytest.raises(WeightsError, match=r"plain\.ckpt: no name begins with 'model_ema\.'"):
        weights.read(tmp_path / "plain.ckpt", source)


def test_checkpoint_that_names_its_trainers_classes_is_read_without_the_trainer(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning 1, as VQGAN's files were written: callbacks are keyed by their classes."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    checkpoint = type("ModelCheckpoint", (), {"__module__": names[-1]})
    monkeypatch.setattr(sys.modules[names[-1]], "ModelCheckpoint", checkpoint, raising=False)
    torch.save({"state_dict": state, "callbacks": {checkpoint: {"best": 1.0}}}, tmp_path / "last.ckpt")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    assert equal(weights.read(tmp_path / "last.ckpt", WeightsSource(file="x", key="state_dict")), state)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def test_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump({"state_dict": Runs()}, file)
    torch.save({"state_dict": Runs()}, tmp_path / "evil.ckpt")
    for name in ("evil.pt", "evil.ckpt"):
        with pytest.raises(WeightsError, match="could run code"):
            weights.read(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["cut.ckpt", "cut.safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".ckpt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"not a whole .*fetch it again"):
        weights.read(path)


def test_file_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    with pytest.raises(WeightsError, match=r"holds no tensors .*epoch"):
        weights.read(tmp_path / "empty.ckpt")


def test_wrong_digest_names_both(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"vtbench")
    files.check_sha256(path, files.sha256(path)[:8])
    with pytest.raises(WeightsError, match=r"sha256 is [0-9a-f]{16}…, expected 0000"):
        files.check_sha256(path, "0" * 64)


# --- downloads, against a real server on this machine -----------------------------------------------------------------


class Files(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 4096
    cut_at: int | None = None
    broken: bytes | None = None
    """What is sent in place of an answer."""
    seen: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).seen.append(asked)
        if self.broken is not None:
            self.wfile.write(self.broken)
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut_at] if self.cut_at and not asked else body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Files, "content", Files.content)  # what a test changes is set back
    Files.seen, Files.cut_at, Files.broken = [], None, None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_broken_download_resumes_where_it_ended(server: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "weights.bin"
    Files.cut_at = 1000
    digest = hashlib.sha256(Files.content).hexdigest()
    with pytest.raises(WeightsError, match="again to resume"):
        files.download(f"{server}/weights", target, digest)
    assert not target.exists()
    files.download(f"{server}/weights", target, digest)
    assert Files.seen == [None, "bytes=1000-"]
    assert target.read_bytes() == Files.content


@pytest.mark.parametrize("size", [3000, 500])
def test_head_and_tail_of_two_files_are_never_joined(server: str, tmp_path: Path, size: int) -> None:
    """The file is replaced between two tries, and no digest is known that would tell."""
    target = tmp_path / "weights.bin"
    Files.cut_at = 1000
    with pytest.raises(WeightsError, match="again to start anew"):
        files.download(f"{server}/weights", target, None)
    Files.cut_at, Files.content = None, b"x" * size
    files.download(f"{server}/weights", target, None)
    assert target.read_bytes() == Files.content
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize(
    "broken", [b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort"]
)
def test_a_broken_answer_is_one_line(server: str, tmp_path: Path, broken: bytes) -> None:
    Files.broken = broken
    with pytest.raises(WeightsError, match=r"the server's answer is broken or breaks off \(.*; try again or") as error:
        files.download(f"{server}/weights", tmp_path / "weights.bin", None)
    assert "\n" not in str(error.value)


def test_another_file_than_expected_is_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing was kept"):
        files.download(f"{server}/weights", tmp_path / "weights.bin", "0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == [".weights.bin.lock"]


def test_missing_address_says_what_the_server_said(server: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="404"):
        files.download(f"{server}/gone", tmp_path / "weights.bin", None)


def test_unreachable_endpoint_is_told_quickly() -> None:
    assert files.unreachable("http://127.0.0.1:9") is not None
