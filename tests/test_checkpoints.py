"""Checkpoints as trainers write them, and files that are none.

What Lightning, accelerate, transformers and diffusers write is imitated here by its layout (entries, names, classes),
because the tests don't need those packages.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib
import json
import pathlib
import random
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from vtbench import cards, checkpoints, files, weights
from vtbench.cards import TokenizerCard, WeightsSource
from vtbench.errors import WeightsError
from vtbench.tokenizer import build_network

State = dict[str, torch.Tensor]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 3, 3)


@pytest.fixture
def state() -> State:
    return weights.synthetic_state(Toy())


WANTED = set(Toy().state_dict())


def card(**source: Any) -> TokenizerCard:
    place = {} if {"files", "package", "file"} & set(source) else {"file": "x.pt"}
    return TokenizerCard(
        name="toy",
        family="toy",
        network="toy",
        kind="continuous",
        title="Toy",
        weights=WeightsSource.model_validate_json(json.dumps(place | source)),
    )


def equal(found: Any, state: State) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def other(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "network.", "module._orig_mod.", "model.module."]
)
def test_prefix_of_a_wrapper_is_found_by_the_names_that_fit(tmp_path: Path, state: State, prefix: str) -> None:
    torch.save({"state_dict": under(prefix, state) | {"loss.net.weight": torch.ones(1)}}, tmp_path / "x.pt")
    found = weights.find_state(card(drop=["loss."]), tmp_path / "x.pt", wanted=WANTED)
    assert equal(found.state, state)
    assert found.origin == "local"
    assert found.digest == files.sha256(tmp_path / "x.pt")
    assert found.ema == 0
    assert any(str(len(state)) in note for note in found.notes)


def test_compiled_part_in_the_middle_of_names(state: State) -> None:
    inner = {name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in state.items()}
    assert equal(weights.find_state(card(), inner).state, state)


def test_published_names_that_begin_like_a_wrapper_stay(state: State) -> None:
    published = under("model.", state)
    found = weights.find_state(card(), published, wanted=published.keys())
    assert equal(found.state, published)
    assert found.notes == ()


def test_strip_of_the_card(tmp_path: Path, state: State) -> None:
    torch.save(under("vae.", state), tmp_path / "x.pt")
    assert equal(weights.find_state(card(strip="vae."), tmp_path / "x.pt").state, state)
    with pytest.raises(WeightsError, match=r"no name begins with 'net\.', the card's strip"):
        weights.find_state(card(strip="net."), tmp_path / "x.pt")


@pytest.mark.parametrize("prefix", ["model_ema.", "model_ema"])
@pytest.mark.parametrize("rename", [str, lambda name: name.replace(".", ""), lambda name: f"module.{name}"])
@pytest.mark.parametrize("around", ["", "module."])
def test_averaged_copy_with_and_without_dots(
    tmp_path: Path, state: State, prefix: str, rename: Callable[[str], str], around: str
) -> None:
    averages = {f"model_ema.{rename(name)}": tensor for name, tensor in state.items()}
    beside = {"model_ema.decay": torch.tensor(0.9), "model_ema.num_updates": torch.tensor(5)}
    torch.save({"state_dict": under(around, other(state) | averages | beside)}, tmp_path / "x.ckpt")
    found = weights.find_state(card(ema_prefix=prefix), tmp_path / "x.ckpt", wanted=WANTED)
    assert equal(found.state, state)
    assert found.ema == len(state)


def test_averaged_model_of_torch(tmp_path: Path) -> None:
    averaged = AveragedModel(Toy())
    torch.save(averaged.state_dict(), tmp_path / "x.pt")
    found = weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED)
    assert equal(found.state, averaged.module.state_dict())
    assert found.ema == len(WANTED)


def test_second_copy_under_another_prefix_is_refused_until_the_card_says_which(tmp_path: Path, state: State) -> None:
    torch.save(under("model.", other(state)) | under("ema_model.", state), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r'ema_prefix = "ema_model\."'):
        weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED)
    averaged = weights.find_state(card(ema_prefix="ema_model."), tmp_path / "x.pt", wanted=WANTED)
    assert equal(averaged.state, state)
    assert averaged.ema == len(state)
    plain = weights.find_state(card(drop=["ema_model."]), tmp_path / "x.pt", wanted=WANTED)
    assert equal(plain.state, other(state))
    assert plain.ema == 0


def test_an_entry_that_the_card_chose_is_an_average_by_its_name(tmp_path: Path, state: State) -> None:
    torch.save({"G": other(state), "G_ema": state, "schema": other(state), "deep": {"EMA": state}}, tmp_path / "x.pt")
    for key, averages in (("G_ema", len(state)), (["deep", "EMA"], len(state)), ("G", 0), ("schema", 0)):
        assert weights.find_state(card(key=key), tmp_path / "x.pt", wanted=WANTED).ema == averages, key


@pytest.mark.parametrize("key", ["ema", "ema_model", "model_ema", "state_dict_ema", "model_ema_state_dict"])
def test_model_beside_its_average(tmp_path: Path, state: State, key: str) -> None:
    torch.save({"model": other(state), key: state, "steps": 3}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=rf"model, {key}.*say in the card"):
        weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED)
    averaged = weights.find_state(card(key=key), tmp_path / "x.pt", wanted=WANTED)
    assert equal(averaged.state, state)
    assert averaged.ema == len(state)
    assert equal(weights.find_state(card(key="model"), tmp_path / "x.pt", wanted=WANTED).state, other(state))


@pytest.mark.parametrize(
    ("plain", "average", "deep"),
    [
        ("model", "ema", lambda state: {"decay": 0.999, "shadow": state}),
        ("model", "ema", lambda state: {"decay": 0.999, "shadow_params": [*state.values()]}),  # diffusers' EMAModel
        ("state_dict", "ema_weights", lambda state: state),
        ("generator", "generator_ema", lambda state: {"deeper": {"model": state}}),
    ],
)
def test_an_average_deeper_within_is_not_passed_over(
    state: State, plain: str, average: str, deep: Callable[[State], dict[str, Any]]
) -> None:
    saved = {plain: other(state), average: deep(state), "ema_steps": [torch.tensor(3)]}
    with pytest.raises(WeightsError, match=rf'\({plain}, {average}\).*key = "{plain}"'):
        weights.find_state(card(), saved, wanted=WANTED)
    assert equal(weights.find_state(card(key=plain), saved, wanted=WANTED).state, other(state))
    del saved[average]
    assert equal(weights.find_state(card(), saved, wanted=WANTED).state, other(state))


def test_entries_within_entries_are_a_list_in_the_card(tmp_path: Path, state: State) -> None:
    """UniTok's file holds its tensors under trainer and, within it, unitok; a dotted name is no path."""
    torch.save({"args": {"lr": 1.0}, "trainer": {"unitok": state, "vae": other(state)}}, tmp_path / "x.pt")
    found = weights.find_state(card(key=("trainer", "unitok")), tmp_path / "x.pt", wanted=WANTED)
    assert equal(found.state, state)
    assert "trainer > unitok, as the card says" in found.notes[0]
    with pytest.raises(WeightsError, match="has no entry trainer > vqgan, as the card says; there is unitok, vae"):
        weights.find_state(card(key=("trainer", "vqgan")), tmp_path / "x.pt", wanted=WANTED)
    with pytest.raises(WeightsError, match="the entry trainer, as the card says, holds no tensors"):
        weights.find_state(card(key=("trainer",)), tmp_path / "x.pt", wanted=WANTED)


def test_container_with_a_trainers_arguments(tmp_path: Path, state: State) -> None:
    """LlamaGen saves its argparse.Namespace; others paths, NumPy's scalars and defaultdicts."""
    counts: dict[str, list[int]] = collections.defaultdict(list, {"a": [1]})
    arguments = argparse.Namespace(results=pathlib.PurePosixPath("/a/b"), rate=np.float64(1e-4), deeper=counts)
    beside = {"args": arguments, "best": np.float32(3.5), "rng": np.arange(3), "counts": counts, "at": Path("x")}
    torch.save({"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}} | beside, tmp_path / "x.pt")
    assert equal(weights.find_state(card(key="model"), tmp_path / "x.pt", wanted=WANTED).state, state)


def test_refused_class_is_named_with_a_command_that_converts(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_trainer.py").write_text("class Callback:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    callback = importlib.import_module("my_trainer").Callback()
    torch.save({"model": state, "callback": callback}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"my_trainer\.Callback, which could run code") as refused:
        weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED)
    command = shlex.split(str(refused.value).split("`")[1])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert equal(weights.find_state(card(), tmp_path / "tensors.pt", wanted=WANTED).state, state)


def test_a_whole_module_is_converted_to_its_tensors(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a dictionary, as many trainers save it; the file's name has what shells act on."""
    (tmp_path / "my_model.py").write_text(
        "import torch\n\n\nclass Model(torch.nn.Module):\n    def __init__(self, state):\n        super().__init__()\n"
        "        for name, value in state.items():\n            self.register_buffer(name.replace('.', '_'), value)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("my_model").Model(state)
    path = tmp_path / "it's $(last).pt"
    torch.save({"model": model, "epoch": 3}, path)
    with pytest.raises(WeightsError, match="which could run code") as refused:
        weights.find_state(card(), path, wanted=WANTED)
    command = shlex.split(str(refused.value).split("`")[1])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    converted = torch.load(tmp_path / "tensors.pt", weights_only=True)
    assert list(converted) == ["model"] and equal(dict(converted["model"]), dict(model.state_dict()))


# --- several files, folders -------------------------------------------------------------------------------------------

TWO = [{"file": "enc.pt", "prefix": "encoder."}, {"file": "dec.pt", "prefix": "decoder."}]


def halves(folder: Path, state: State, names: tuple[str, str] = ("enc.pt", "dec.pt")) -> list[Path]:
    for name, part in zip(names, ("encoder.", "decoder."), strict=True):
        torch.save({n.removeprefix(part): t for n, t in state.items() if n.startswith(part)}, folder / name)
    return [folder / name for name in names]


def test_encoder_and_decoder_in_two_files(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTBENCH_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    paths = halves(tmp_path / "weights", state)
    two = card(files=TWO, url="http://127.0.0.1:9")
    found = weights.find_state(two, wanted=WANTED)
    assert equal(found.state, state)
    assert found.origin == "published"
    together = hashlib.sha256("".join(files.sha256(path) for path in paths).encode()).hexdigest()
    assert found.digest == together
    for given in (paths, paths[::-1], tmp_path / "weights"):
        local = weights.find_state(two, given, wanted=WANTED)
        assert equal(local.state, state)
        assert (local.origin, local.digest) == ("local", together)
    paths[1].unlink()
    with pytest.raises(WeightsError, match=r"dec\.pt can't be reached"):
        weights.find_state(two, wanted=WANTED)


def test_files_of_other_names_and_one_whole_file(tmp_path: Path, state: State) -> None:
    paths = halves(tmp_path, state, ("a.pt", "b.pt"))
    found = weights.find_state(card(files=TWO), paths, wanted=WANTED)
    assert equal(found.state, state)
    assert any("a.pt for enc.pt" in note for note in found.notes)
    torch.save(state, tmp_path / "whole.pt")
    assert equal(weights.find_state(card(files=TWO), tmp_path / "whole.pt", wanted=WANTED).state, state)
    with pytest.raises(WeightsError, match="which a file before it holds too"):
        weights.find_state(card(), [tmp_path / "whole.pt", tmp_path / "whole.pt"])


def test_the_cards_own_file_given_by_path_is_published(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "x.pt")
    digest = files.sha256(tmp_path / "x.pt")
    assert weights.find_state(card(sha256=digest), tmp_path / "x.pt").origin == "published"
    assert weights.find_state(card(sha256="0" * 64), tmp_path / "x.pt").origin == "local"


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("give", ["folder", "index"])
def test_shards_of_save_pretrained(tmp_path: Path, state: State, ending: str, give: str) -> None:
    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = sorted(state)
    where = {name: f"{stem}-0000{1 + place % 2}-of-00002.{ending}" for place, name in enumerate(names)}
    for shard in set(where.values()):
        part = {name: state[name] for name in names if where[name] == shard}
        if ending == "safetensors":
            save_file(part, tmp_path / shard)
        else:
            torch.save(part, tmp_path / shard)
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    found = weights.find_state(card(), tmp_path if give == "folder" else index, wanted=WANTED)
    assert equal(found.state, state)
    (tmp_path / where[names[0]]).unlink()
    with pytest.raises(WeightsError, match="1 of its 2 shards"):
        weights.find_state(card(), index)
    index.write_text(json.dumps({"weight_map": {"a": "../a.bin"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        weights.find_state(card(), index)


def test_folder_of_one_model_in_both_formats_and_of_two(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert equal(weights.find_state(card(), str(tmp_path)).state, state)
    torch.save(state, tmp_path / "step-2.pt")
    with pytest.raises(WeightsError, match="2 checkpoints"):
        weights.find_state(card(), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="no checkpoint in this folder"):
        weights.find_state(card(), tmp_path / "empty")


def test_card_without_a_file_takes_a_folder_and_no_list_is_empty(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.safetensors")
    nowhere = card(key=None, file=None)
    assert equal(weights.find_state(nowhere, tmp_path).state, state)
    with pytest.raises(WeightsError, match="names no file"):
        weights.find_state(nowhere)
    with pytest.raises(WeightsError, match="empty list"):
        weights.find_state(nowhere, [])


# --- mappings ---------------------------------------------------------------------------------------------------------


def test_mappings_of_other_types(state: State) -> None:
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    found = weights.find_state(card(), {"state_dict": half}, wanted=WANTED)
    assert found.state is not None
    assert found.origin == "local"
    assert found.digest == weights.state_digest(half) != weights.state_digest(state)
    toy = Toy()
    weights.load_state(toy, found.state)
    assert toy.decoder.weight.dtype == torch.float32
    assert torch.equal(toy.decoder.weight, half["decoder.weight"].float())
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    assert equal(weights.find_state(card(), arrays).state, state)
    assert len(weights.state_digest({"a": torch.ones(3).to(torch.float8_e4m3fn), "b": torch.tensor(1.0)})) == 64


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.bool])
def test_quantised_integers_are_refused(state: State, kind: torch.dtype) -> None:
    with pytest.raises(WeightsError, match=r"1 not floating point \(decoder\.weight .*quantised"):
        weights.load_state(Toy(), state | {"decoder.weight": state["decoder.weight"].to(kind)})


# --- what is no checkpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git-LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "HTML page"),
        (b"<html>", "HTML page"),
        (b"", "empty file"),
        (b"GGUF\x03", "quantised"),
        (b"\x1f\x8b\x08", "unpack it"),
        (b"nothing of the kind", "not a"),
    ],
)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_other_files_are_told_as_what_they_are(tmp_path: Path, content: bytes, message: str, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        weights.find_state(card(), path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # such archives are older than that
def test_torchscript_is_told(tmp_path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match="TorchScript archive"):
        weights.find_state(card(), tmp_path / "x.pt")


def test_safetensors_under_another_ending_and_the_other_way(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "x.ckpt")
    torch.save(state, tmp_path / "x.safetensors")
    assert equal(weights.find_state(card(), tmp_path / "x.ckpt").state, state)
    assert equal(weights.find_state(card(), tmp_path / "x.safetensors").state, state)


@pytest.mark.parametrize("layout", ["zip.pt", "legacy.ckpt", "safe.safetensors"])
def test_damaged_bytes_load_or_are_told(tmp_path: Path, layout: str) -> None:
    """A flipped bit anywhere; where it lies in a value of a tensor, nobody can see it."""
    small = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2), "n": torch.tensor(3)}
    path = tmp_path / layout
    if layout.startswith("safe"):
        save_file(small, path)
    else:
        beside = {"state_dict": small, "args": argparse.Namespace(a=Path("x"), b=np.float32(1))}
        torch.save(beside, path, _use_new_zipfile_serialization=layout.startswith("zip"))
    whole = path.read_bytes()
    draw = random.Random(0)
    told = 0
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            weights.find_state(card(), path, wanted=["a.weight", "a.bias", "n"])
        except WeightsError as error:
            assert "\n" not in str(error)
            told += 1
    assert told > FLIPS // 50


FLIPS = 300

# --- cards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/abs", "../up", "a/../../b", "a\\b", "C:/x", "", "a//b", "."])
@pytest.mark.parametrize("key", ["file", "package", "revision", "files"])
def test_path_that_leads_out_of_its_folder_is_refused_with_the_card(key: str, path: str) -> None:
    with pytest.raises(ValidationError, match="inside its folder"):
        card(**{key: [{"file": path}] if key == "files" else path})


def test_one_file_and_several_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="stands instead"):
        card(files=TWO, file="x.pt")


# --- empty networks ---------------------------------------------------------------------------------------------------


class Constants(Toy):
    def __init__(self, device: str | None) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor([1.0, 2.0], device=device), persistent=False)


class Held(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.steps = [torch.arange(3)]


class Reads(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.rates = torch.linspace(0, 1, 3).tolist()


def test_empty_network_is_filled_with_its_own_types(state: State) -> None:
    network = weights.build_empty(lambda: Constants("cpu"))
    assert all(parameter.is_meta for parameter in network.parameters())
    weights.load_state(network, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert network.decoder.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    usual = Constants("cpu")
    weights.load_state(usual, {name: t.half() if t.is_floating_point() else t for name, t in state.items()})
    assert equal(network.state_dict(), usual.state_dict())


def test_filling_copies_what_others_hold(state: State) -> None:
    network = weights.build_empty(Toy)
    weights.load_state(network, state)
    state["decoder.bias"].add_(1)
    assert not torch.equal(network.state_dict()["decoder.bias"], state["decoder.bias"])


def test_nothing_is_filled_where_something_does_not_fit(state: State) -> None:
    network = weights.build_empty(Toy)
    with pytest.raises(WeightsError, match=r"1 missing \(decoder\.bias\)"):
        weights.load_state(network, {name: tensor for name, tensor in state.items() if name != "decoder.bias"})
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("factory", [lambda: Constants(None), Held, Reads])
def test_network_that_needs_its_constants_is_built_as_usual(factory: Callable[[], nn.Module]) -> None:
    network = weights.build_empty(factory)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])


BUILT_ELSEWHERE = {"vfmvae", "diffusers"}
ONE_A_FAMILY = {card.family: name for name, card in cards.tokenizers().items() if card.network not in BUILT_ELSEWHERE}


@pytest.mark.parametrize("name", [name for name in ONE_A_FAMILY.values() if cards.find_tokenizer(name).weights])
def test_networks_of_the_suite_are_built_empty_around_their_constants(name: str) -> None:
    """Networks whose parts other packages build are not among them."""
    network = weights.build_empty(lambda: build_network(cards.find_tokenizer(name)))
    stored = network.state_dict()
    assert all(tensor.is_meta for tensor in stored.values())
    assert not any(buffer.is_meta for key, buffer in network.named_buffers() if key not in stored)


def test_files_beside_a_model_are_not_models(tmp_path: Path, state: State) -> None:
    """accelerate's `save_state`."""
    save_file(state, tmp_path / "model.safetensors")
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt", "training_args.bin"):
        torch.save({}, tmp_path / name)
    assert checkpoints.files_of(tmp_path) == (tmp_path / "model.safetensors",)


def test_a_picture_in_place_of_a_checkpoint_is_told_what_was_expected(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "w.png")
    with pytest.raises(WeightsError) as caught:
        checkpoints.read(tmp_path / "w.png")
    assert "expected .safetensors or what torch.save writes" in str(caught.value) and "( )" not in str(caught.value)


@pytest.mark.parametrize(
    "saved",
    [
        lambda plain, average: {**plain, "ema": average},
        lambda plain, average: {**plain, "ema_weights": {"params": average}},
        lambda plain, average: {"model": {**plain, "ema": average}},
        lambda plain, average: {"model": {"model": plain, "ema": average}},
        lambda plain, average: {"state_dict": plain, "callbacks": {"SWA": {"average_model_state": average}}},
        lambda plain, average: {"state_dict": plain, "callbacks": {"Averages{}": {"ema_state_dict": average}}},
        *(
            lambda plain, average, name=name: {"model": plain, name: average}
            for name in ("avg_model", "averaged_model", "swa_state_dict", "ema-model", "modelEMA", "model.ema")
        ),
        lambda plain, average: {"state_dict": plain, "shadow_params": [*average.values()]},
    ],
)
def test_an_average_beside_plain_tensors_is_passed_over_nowhere(
    tmp_path: Path, state: State, saved: Callable[[State, State], dict[str, Any]]
) -> None:
    torch.save(saved(other(state), state), tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"holds several sets of tensors \(.*such as key = "):
        weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED)


def test_the_list_of_names_leads_to_an_average_and_one_name_to_the_plain_tensors(tmp_path: Path, state: State) -> None:
    torch.save({"model": {**other(state), "ema": {"params": state}}}, tmp_path / "x.pt")
    averaged = weights.find_state(card(key=["model", "ema", "params"]), tmp_path / "x.pt", wanted=WANTED)
    assert averaged.ema == len(state)
    plain = weights.find_state(card(key="model"), tmp_path / "x.pt", wanted=WANTED)
    assert plain.ema == 0
    assert equal(plain.state, other(state))


@pytest.mark.parametrize(
    "saved",
    [
        lambda state: {"ema": state, "rng_state": torch.get_rng_state(), "step": 5},
        lambda state: {"ema_state_dict": state, "train_losses": torch.ones(10)},
        lambda state: {"state_dict": state, "loss": {"lecam_ema": {"r": torch.ones(1)}}},
        lambda state: {**state, "lecam_ema": {"r": torch.ones(1)}},
        lambda state: {"model": state, "metrics": {"avg": {"psnr": torch.ones(3)}}},
        lambda state: {"model": state, "metrics": {"moving_average": [torch.ones(1)]}},
        lambda state: {"model": state, "optimizer": {"avg_sq": state, "square_avg": state, "grad_avg": state}},
    ],
)
def test_what_is_no_copy_of_the_network_is_no_second_set(
    tmp_path: Path, state: State, saved: Callable[[State], dict[str, Any]]
) -> None:
    torch.save(saved(state), tmp_path / "x.pt")
    assert equal(weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED).state, state)


def test_an_average_of_the_network_alone_counts_beside_a_larger_loss(state: State) -> None:
    loss = {f"loss.{index}.weight": torch.ones(index, 2) for index in range(1, 50)}
    saved = {"state_dict": under("model.", other(state)) | loss, "callbacks": {"SWA": {"average_model_state": state}}}
    with pytest.raises(WeightsError, match="holds several sets of tensors"):
        weights.find_state(card(), saved, wanted=WANTED)


def test_averages_that_optimizers_keep_are_no_second_set(tmp_path: Path, state: State) -> None:
    moments = {"exp_avg": state, "ema": state}
    saved = {"model": state, "optimizer": {"state": {0: moments}, "param_groups": []}, "moments": {"exp_avg": state}}
    torch.save(saved, tmp_path / "x.pt")
    assert weights.find_state(card(), tmp_path / "x.pt", wanted=WANTED).ema == 0


def test_tensors_without_values_are_told(tmp_path: Path, state: State) -> None:
    empty = {name: tensor.to("meta") for name, tensor in state.items()}
    torch.save(empty, tmp_path / "x.pt")
    for given in (tmp_path / "x.pt", empty):
        with pytest.raises(WeightsError, match=r"holds \d+ tensors without values.*save the model once"):
            weights.find_state(card(), given, wanted=WANTED)
