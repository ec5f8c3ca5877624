"""What real trainers write: transformers, accelerate, Lightning, diffusers and torch itself save, and we load."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vtbench import weights
from vtbench.cards import TokenizerCard, WeightsSource
from vtbench.errors import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' own

State = dict[str, Tensor]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


WANTED = set(Toy().state_dict())
SMALL = 450
"""Bytes of a shard, so that the toy has three."""


def find(place: Path, **source: Any) -> weights.Loaded:
    card = TokenizerCard(
        name="toy", family="toy", network="toy", kind="continuous", title="Toy",
        weights=WeightsSource(file="x.pt", **source),
    )  # fmt: skip
    return weights.find_state(card, place, wanted=WANTED)


def state_of(module: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(found: weights.Loaded, wanted: State) -> bool:
    state = found.state
    assert state is not None
    return state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


# --- transformers -----------------------------------------------------------------------------------------------------


def pretrained() -> nn.Module:
    from transformers import PretrainedConfig, PreTrainedModel

    class Config(PretrainedConfig):
        model_type = "toy"

    class Model(PreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            parts = Toy()
            self.encoder, self.decoder = parts.encoder, parts.decoder
            self.post_init()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.decoder(self.encoder(x)).pow(2).mean()}

    return Model(Config())


def test_folders_that_transformers_wrote(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model: Any = pretrained()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size=SMALL)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) == 3
    for folder in ("whole", "shards"):
        assert equal(find(tmp_path / folder), state_of(model))


def test_checkpoints_of_transformers_trainer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import Trainer, TrainingArguments

    model: Any = pretrained()
    before = state_of(model)
    how = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no"
    )
    Trainer(model, how, train_dataset=[{"x": torch.ones(3, 8, 8)}] * 2).train()
    last = tmp_path / "checkpoint-2"
    assert {"optimizer.pt", "rng_state.pth", "training_args.bin"} <= {path.name for path in last.iterdir()}
    found = find(last)
    assert equal(found, state_of(model)) and not equal(found, before)
    with pytest.raises(WeightsError, match=r"its folders checkpoint-1, checkpoint-2 hold such: give the path of one"):
        find(tmp_path)
    with pytest.raises(WeightsError, match=r"TrainingArguments, which could run code"):
        find(last / "training_args.bin")
    with pytest.raises(WeightsError, match=r"an optimizer's state; expected the model's"):
        find(last / "optimizer.pt")


# --- accelerate -------------------------------------------------------------------------------------------------------


def test_folders_that_accelerate_wrote(tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Toy()
    model, _ = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    accelerator.save_state(str(tmp_path / "safe"))
    accelerator.save_state(str(tmp_path / "pickle"), safe_serialization=False)
    accelerator.save_model(model, str(tmp_path / "shards"), max_shard_size=SMALL)
    assert {path.name for path in (tmp_path / "safe").iterdir()} > {"optimizer.bin", "random_states_0.pkl"}
    for folder in ("safe", "pickle", "shards"):
        assert equal(find(tmp_path / folder), state_of(model))
    accelerator.prepare(Toy())
    accelerator.save_state(str(tmp_path / "two"))
    with pytest.raises(WeightsError, match=r"2 checkpoints \(model\.safetensors, model_1\.safetensors\)"):
        find(tmp_path / "two")


# --- Lightning --------------------------------------------------------------------------------------------------------


def fit(path: Path, *callbacks: Any, **arguments: Any) -> nn.Module:
    import pytorch_lightning as lightning

    class Module(lightning.LightningModule):
        def __init__(self, **arguments: Any) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = Toy()
            self.loss = nn.Conv2d(3, 1, 1)

        def training_step(self, batch: Tensor, _: int) -> Tensor:
            return self.loss(self.model(batch)).pow(2).mean()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Module(**arguments)
    last = lightning.callbacks.ModelCheckpoint(str(path.parent), filename=path.stem, every_n_train_steps=2)
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[last, *callbacks],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(4, 3, 8, 8), batch_size=2))  # type: ignore[arg-type]
    return module.model


def test_checkpoint_of_lightning_with_all_that_its_arguments_hold(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    model = fit(
        tmp_path / "x.ckpt",
        args=argparse.Namespace(results=Path("/a"), rate=np.float32(1e-4)),
        config=OmegaConf.create({"a": {"b": [1, 2.5, "x", None]}}),
        counts=collections.defaultdict(list),
    )
    assert equal(find(tmp_path / "x.ckpt", drop=("loss.",)), state_of(model))
    whole = find(tmp_path / "x.ckpt")  # the loss is named where the network would get it
    with pytest.raises(WeightsError, match=r"2 unexpected \(loss\.weight, loss\.bias\)"):
        weights.load_state(Toy(), whole.state or {})


def test_averages_of_lightning_stand_where_its_plain_tensors_do_otherwise(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import EMAWeightAveraging

    fit(tmp_path / "x.ckpt", EMAWeightAveraging(decay=0.5))
    saved = torch.load(tmp_path / "x.ckpt", weights_only=False)
    with pytest.raises(WeightsError, match=r"current_model_state, state_dict.*say in the card"):
        find(tmp_path / "x.ckpt", drop=("loss.",))
    read = {}
    for key, ema in (("state_dict", True), ("current_model_state", False)):
        read[key] = find(tmp_path / "x.ckpt", drop=("loss.",), key=key)
        tensors = saved[key].items()
        wanted = {name.removeprefix("model."): t for name, t in tensors if name.startswith("model.")}
        assert equal(read[key], wanted)
        assert bool(read[key].ema) == ema
    assert not equal(read["state_dict"], dict(read["current_model_state"].state or {}))


# --- diffusers --------------------------------------------------------------------------------------------------------


def test_folders_that_diffusers_wrote(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderTiny
    from diffusers.training_utils import EMAModel

    model = AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=2,
    )  # fmt: skip
    wanted = state_of(model)
    model.save_pretrained(tmp_path / "pipeline" / "vae")
    model.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    model.save_pretrained(tmp_path / "shards", max_shard_size=1500)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    card = TokenizerCard(name="toy", family="toy", network="toy", kind="continuous", title="Toy",
                         weights=WeightsSource(file="x.pt"))  # fmt: skip
    for folder in ("pipeline/vae", "pickle", "shards"):
        assert equal(weights.find_state(card, tmp_path / folder, wanted=wanted.keys()), wanted)
    with pytest.raises(WeightsError, match="its folders vae hold such"):
        find(tmp_path / "pipeline")
    model.save_pretrained(tmp_path / "pickle", variant="fp16")
    with pytest.raises(WeightsError, match=r"2 checkpoints .*fp16"):
        find(tmp_path / "pickle")
    torch.save(EMAModel(model.parameters()).state_dict(), tmp_path / "ema.pt")  # a list, without names
    with pytest.raises(WeightsError, match=r"holds no tensors \(its keys are decay"):
        find(tmp_path / "ema.pt")


# --- torch ------------------------------------------------------------------------------------------------------------


def test_what_torchs_own_wrappers_and_savers_write(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as distributed

    toy = Toy()
    torch.save({"net": nn.DataParallel(toy).state_dict(), "epoch": 3}, tmp_path / "parallel.pt")
    torch.save(torch.compile(toy).state_dict(), tmp_path / "compiled.pt")
    for name in ("parallel.pt", "compiled.pt"):
        assert equal(find(tmp_path / name), state_of(toy))
    distributed.save({"model": toy.state_dict()}, checkpoint_id=tmp_path / "parts")
    with pytest.raises(WeightsError, match=r"a distributed checkpoint; make one file of it by `python -m torch\.dist"):
        find(tmp_path / "parts")
    torch.save(toy, tmp_path / "object.pt")
    with pytest.raises(WeightsError, match=r"Toy, which could run code"):
        find(tmp_path / "object.pt")
    torch.save([toy.state_dict()], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list, expected a dictionary of tensors"):
        find(tmp_path / "list.pt")
