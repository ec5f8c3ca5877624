"""Every allowed class, small, saved by the library itself, against what the library computes with what it loads."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builders import small_task, write_pictures
from safetensors.torch import load_file, save_file

from vtbench import cards, finished, plan, results
from vtbench.cli import run
from vtbench.errors import CardError, DataError, WeightsError
from vtbench.networks._diffusers import FACTS, complete
from vtbench.networks.diffusers import Config, Network, card_for, load_folder
from vtbench.settings import Settings
from vtbench.tokenizer import Tokenizer, build_network, load_tokenizer
from vtbench.types import Codes

diffusers = pytest.importorskip("diffusers")

TWO_BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
}
DC = {"block_types": ["ResBlock", "EfficientViTBlock"], "block_out_channels": [8, 8], "layers_per_block": [1, 1]}
VIDEO = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True]}
VIDTOK = {"ch": 32, "ch_mult": [1, 1, 2], "z_channels": 4, "num_res_blocks": 1}
RAE = {
    "encoder_hidden_size": 64,
    "encoder_num_hidden_layers": 1,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 64,
}
SMALL: dict[str, tuple[str, dict[str, object]]] = {
    "dc": (
        "AutoencoderDC",
        {
            **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in DC.items()},
            **{f"{side}_qkv_multiscales": [[], [5]] for side in ("encoder", "decoder")},
            "latent_channels": 4,
            "attention_head_dim": 2,
            "decoder_norm_types": ["batch_norm", "rms_norm"],
            "decoder_act_fns": ["relu", "silu"],
        },
    ),
    "kl": ("AutoencoderKL", {**TWO_BLOCKS, "latent_channels": 4, "scaling_factor": 0.5}),
    "kl, no quant convs": (
        "AutoencoderKL",
        {**TWO_BLOCKS, "latent_channels": 4, "use_quant_conv": False, "use_post_quant_conv": False},
    ),
    "cosmos": (
        "AutoencoderKLCosmos",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": [8, 8, 8, 8],
            "decode_block_out_channels": [8, 8, 8, 8],
            "attention_resolutions": [8],
            "resolution": 64,
            "num_layers": 1,
        },
    ),
    "flux.2": ("AutoencoderKLFlux2", {**TWO_BLOCKS, "latent_channels": 4}),
    "hunyuanimage": (
        "AutoencoderKLHunyuanImage",
        {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": [32, 64, 64],
            "layers_per_block": 1,
            "spatial_compression_ratio": 4,
            "sample_size": 32,
        },
    ),
    "kvae": (
        "AutoencoderKLKVAE",
        {"channels": 32, "num_enc_blocks": 1, "num_dec_blocks": 1, "z_channels": 4, "ch_mult": [1, 2]},
    ),
    "qwen-image": ("AutoencoderKLQwenImage", VIDEO),
    "wan 2.1": ("AutoencoderKLWan", VIDEO),
    "wan 2.2": (
        "AutoencoderKLWan",
        {**VIDEO, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2},
    ),
    "rae": ("AutoencoderRAE", {**RAE, "encoder_input_size": 56}),
    "rae, mae": (
        "AutoencoderRAE",
        {**RAE, "encoder_type": "mae", "encoder_patch_size": 16, "encoder_input_size": 64},
    ),
    "tiny": (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": [8, 8],
            "decoder_block_out_channels": [8, 8],
            "num_encoder_blocks": [1, 1],
            "num_decoder_blocks": [1, 1],
        },
    ),
    "vidtok": ("AutoencoderVidTok", VIDTOK),
    "vidtok, fsq": (
        "AutoencoderVidTok",
        {**VIDTOK, "double_z": False, "regularizer": "fsq", "codebook_size": 4096},
    ),
    "vq": ("VQModel", {**TWO_BLOCKS, "latent_channels": 3}),
    "vq, spatial": (
        "VQModel",
        {**TWO_BLOCKS, "block_out_channels": [32, 32], "norm_num_groups": 32, "norm_type": "spatial"},
    ),
}


def save(folder: Path, small: str) -> torch.nn.Module:
    """Let the library write a small class into a folder; return what it loads from there."""
    name, values = SMALL[small]
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**values)
    with torch.no_grad():
        for parameter in model.parameters():  # no tensor stays 0 or 1, as some are made
            parameter.add_(0.02 * torch.randn_like(parameter))
        if name == "VQModel":  # spread its latents over the codebook
            model.quant_conv.weight.mul_(10)
    model.save_pretrained(folder)
    return getattr(diffusers, name).from_pretrained(folder).eval()


def load(folder: Path) -> Tokenizer:
    return load_tokenizer(card_for(str(folder)), weights=load_folder(folder), device="cpu")


def noise(tokenizer: Tokenizer, count: int = 3) -> torch.Tensor:
    side = tokenizer.card.output.size or 8 * tokenizer.card.input.multiple_of
    low, high = tokenizer.card.input.range
    return low + (high - low) * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def own(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the library itself makes of still pictures: the code, and the reconstruction from it."""
    name = type(model).__name__
    if name == "VQModel":
        latents = model.encode(x).latents
        indices = model.quantize(latents)[2][2]
        shape = (len(x), *latents.shape[-2:], model.quantize.vq_embed_dim)
        rows = model.quantize.get_codebook_entry(indices, shape)
        return indices.view(shape[:3]), model.decode(rows, force_not_quantize=True).sample
    if name == "AutoencoderTiny":
        latents = model.encode(x).latents  # its forward pass rounds them to eight bits besides
        return latents, model.decode(latents).sample
    if name in ("AutoencoderDC", "AutoencoderRAE"):
        return model.encode(x).latent, model(x).sample
    if name == "AutoencoderVidTok":
        clip = x[:, :, None]
        coded = model(clip, sample_posterior=False, encoder_mode=True)
        code = coded[1][:, 0] if isinstance(coded, tuple) else coded[:, :, 0]
        return code, model(clip, sample_posterior=False).sample[:, :, 0]
    if FACTS[name].frames:
        clip = x[:, :, None]
        return model.encode(clip).latent_dist.mode()[:, :, 0], model(clip, sample_posterior=False).sample[:, :, 0]
    return model.encode(x).latent_dist.mode(), model(x, sample_posterior=False).sample


def test_every_allowed_class_is_held_against_the_library():
    assert {name for name, _ in SMALL.values()} == set(FACTS)


@pytest.mark.parametrize("small", SMALL)
@torch.inference_mode()
def test_a_class_is_bit_equal_to_the_librarys_own(tmp_path, small):
    model = save(tmp_path, small)
    tokenizer = load(tmp_path)
    card, network, x = tokenizer.card, tokenizer.network, noise(tokenizer)
    code, decoded = own(model, x)
    codes = network.encode(x)
    found = codes.latent if card.kind == "continuous" else codes.indices[0]
    assert found.dtype == (torch.float32 if card.kind == "continuous" else torch.int64)
    assert torch.equal(found, code.to(found.dtype))
    assert torch.equal(network.decode(codes), decoded)
    assert torch.equal(network.decode(codes), decoded)  # nothing is kept between calls
    # Another batch rounds otherwise, by how much depends on the processor.
    torch.testing.assert_close(network.decode(network.encode(x[1:2]))[0], decoded[1], rtol=0, atol=1e-4)
    assert decoded.std() > 0.01
    grid = (x.shape[-2] // card.code.downsampling, x.shape[-1] // card.code.downsampling)
    if card.kind == "discrete":
        assert codes.codebook_sizes == card.code.codebook_sizes
        assert found.shape[1:] == grid
        assert 1 < found.unique().numel() <= codes.codebook_sizes[0]
    else:
        assert card.code.codebook_sizes == ()
        assert found.shape[1:] == (card.code.latent_channels, *grid)


@pytest.mark.parametrize("small", ["dc", "kl", "cosmos", "flux.2", "wan 2.1", "rae", "vidtok, fsq", "vq, spatial"])
@torch.inference_mode()
def test_a_class_is_built_without_memory_and_filled_later(tmp_path, small):
    save(tmp_path, small)
    state = load_folder(tmp_path)
    with torch.device("meta"):
        network = build_network(card_for(str(tmp_path))).eval()
    names = {network.published_name(name): name for name in network.state_dict()}
    network.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=True, assign=True)
    assert not [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    tokenizer = load(tmp_path)
    x = noise(tokenizer, 1)
    expected = tokenizer.network.decode(tokenizer.network.encode(x))
    assert torch.equal(network.decode(network.encode(x)), expected)


@torch.inference_mode()
def test_a_video_class_is_shown_one_frame(tmp_path):
    model = save(tmp_path, "vidtok")
    x = noise(tokenizer := load(tmp_path), 1)
    assert tokenizer.network.encode(x).latent.ndim == 4
    longer = model(x[:, :, None].expand(-1, -1, 5, -1, -1), sample_posterior=False, encoder_mode=True)
    assert longer.shape[2] == 2


def test_shards_and_one_file_hold_the_same(tmp_path):
    save(tmp_path / "one", "kl")
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shards = list((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    one, several = load_folder(tmp_path / "one"), load_folder(tmp_path / "shards")
    assert one.keys() == several.keys()
    assert all(torch.equal(one[name], several[name]) for name in one)
    shards[0].unlink()
    with pytest.raises(WeightsError, match="no such file"):
        load_folder(tmp_path / "shards")
    index = tmp_path / "shards" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../one/diffusion_pytorch_model.safetensors"}}))
    with pytest.raises(WeightsError, match="outside its folder"):
        load_folder(tmp_path / "shards")


@torch.inference_mode()
def test_the_names_of_old_files_are_renamed_as_the_library_does(tmp_path):
    save(tmp_path, "kl")
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    save_file(state, file, metadata={"format": "pt"})
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
    tokenizer = load(tmp_path)
    x = noise(tokenizer)
    assert torch.equal(tokenizer.network.decode(tokenizer.network.encode(x)), own(model, x)[1])


def test_names_of_other_attentions_stay():
    kept = dict.fromkeys(("encoder.encoder.layer.0.attention.attention.query.weight", "quantize.value.weight"))
    assert Network.renamed(kept) == kept


@torch.inference_mode()
def test_rae_gives_its_own_size_whatever_it_takes(tmp_path):
    save(tmp_path, "rae")
    tokenizer = load(tmp_path)
    assert tokenizer.network.output_size == 64  # 56 / 14 = 4 patches a side, decoded to 16 pixels each
    assert tokenizer.card.input.sizes == (64,)
    assert tokenizer.card.output.size == 64
    assert tokenizer.card.input.range == (0.0, 1.0)
    smaller = torch.rand(1, 3, 56, 56)
    assert tokenizer.network.decode(tokenizer.network.encode(smaller)).shape == (1, 3, 64, 64)
    assert tokenizer.reconstruct(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape == (1, 3, 64, 64)
    with pytest.raises(DataError, match="takes 64x64 pixels only, the task has 56x56"):
        tokenizer.encode((smaller * 255).to(torch.uint8))


@torch.inference_mode()
def test_a_posterior_can_be_sampled_with_a_seed(tmp_path):
    save(tmp_path, "wan 2.1")
    card = card_for(str(tmp_path))
    drawing = card.model_copy(update={"config": {**card.config, "sample": True, "seed": 3}})
    mean, drawn = (load_tokenizer(c, weights=load_folder(tmp_path), device="cpu") for c in (card, drawing))
    x = noise(mean)
    latent = drawn.network.encode(x).latent
    assert torch.equal(latent, drawn.network.encode(x).latent)
    torch.testing.assert_close(latent[2], drawn.network.encode(x[2:]).latent[0], rtol=0, atol=1e-5)
    assert (latent - mean.network.encode(x).latent).abs().mean() > 0.1


def test_a_class_without_a_posterior_is_not_sampled():
    config = {"class": "AutoencoderDC", "sample": True}
    with pytest.raises(CardError, match="AutoencoderDC has none"):
        build_network(card_like(config))
    values = {**VIDTOK, "double_z": False, "regularizer": "fsq", "codebook_size": 4096}
    with pytest.raises(CardError, match="this class quantises"):
        build_network(card_like({"class": "AutoencoderVidTok", "sample": True, "values": values}))


def card_like(config: dict[str, object]) -> cards.TokenizerCard:
    return cards.find_tokenizer("sd-vae-ft-mse").model_copy(update={"config": config})


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


def test_other_classes_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "sample_size": 8}))
    with pytest.raises(
        CardError, match="its class is UNet2DModel; of diffusers, vtbench runs AutoencoderDC, "
    ) as error:
        card_for(str(tmp_path))
    one_line(error)
    with pytest.raises(CardError, match=r"\[config\] class: input should be .*got 'StableDiffusionPipeline'") as error:
        build_network(card_like({"class": "StableDiffusionPipeline"}))
    one_line(error)


def test_a_configuration_must_be_the_classs(tmp_path):
    with pytest.raises(CardError, match="AutoencoderKL has no configuration entry latent_chanels; it has in_channels"):
        Network(Config(**{"class": "AutoencoderKL", "values": {"latent_chanels": 4}}))
    with pytest.raises(CardError, match="AutoencoderKLHunyuanImage needs the configuration entries in_channels, "):
        Network(Config(**{"class": "AutoencoderKLHunyuanImage"}))
    with pytest.raises(CardError, match="takes 16 frames at once"):
        Network(Config(**{"class": "AutoencoderVidTok", "values": {"is_causal": False}}))
    with pytest.raises(CardError, match="AutoencoderTiny can't be built so"):
        Network(Config(**{"class": "AutoencoderTiny", "values": {"num_encoder_blocks": [1]}}))
    with pytest.raises(CardError, match="leave one of them out"):
        build_network(card_like({"class": "AutoencoderKL", "values": {"latent_channels": 4}, "pretrained": "a/b"}))
    save(tmp_path, "kl")
    with pytest.raises(CardError, match="its class is AutoencoderKL, the card says AutoencoderDC"):
        Network(Config(**{"class": "AutoencoderDC", "pretrained": str(tmp_path)}))


@torch.inference_mode()
def test_a_card_can_leave_the_configuration_to_the_publisher(tmp_path):
    model = save(tmp_path, "kl")
    card = card_like({"class": "AutoencoderKL", "pretrained": str(tmp_path)})
    tokenizer = load_tokenizer(card, weights=load_folder(tmp_path), device="cpu")
    x = noise(tokenizer, 1)
    assert torch.equal(tokenizer.network.encode(x).latent, own(model, x)[0])


def test_a_published_configuration_is_part_of_what_a_run_is(tmp_path):
    """An entry that changes no tensor's shape changes the numbers all the same."""
    folder, pictures = tmp_path / "vae", write_pictures(tmp_path / "pictures", 1)
    save(folder, "kl")
    card = card_like({"class": "AutoencoderKL", "pretrained": str(folder)})
    file = folder / "config.json"

    def told() -> tuple[str, str | None]:
        tokenizer = load_tokenizer(card, weights=load_folder(folder), device="cpu")
        made = plan.make(tokenizer, small_task(pictures), protocol=None, batch_size=1, how=Settings(None))
        command = {"weights": [str(folder / "diffusion_pytorch_model.safetensors")], "diffusers": []}
        return made.digest, finished.asked(command, card, {})

    before = told()
    assert before == told()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"act_fn": "relu"}))
    assert [one == other for one, other in zip(before, told(), strict=True)] == [False, False]
    file.unlink()
    assert finished.asked({"weights": ["synthetic"], "diffusers": []}, card, {}) is None


def test_a_missing_library_is_one_line(monkeypatch):
    for missing, name in (("diffusers", "AutoencoderKL"), ("transformers", "AutoencoderRAE")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(CardError, match=r"pip install 'vtbench\[diffusers\]'") as error:
                Network(Config(**{"class": name}))
            assert missing in one_line(error)


@pytest.mark.parametrize("place", ["nowhere", "a b/c", "no such folder/", "/tmp/no/such/folder"])
def test_a_place_is_a_folder_or_on_the_hub(place):
    with pytest.raises(CardError, match=r"not OWNER/NAME\[/SUBFOLDER\] on the hub") as error:
        card_for(place)
    one_line(error)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(CardError, match=r"no config\.json of an autoencoder"):
        card_for(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CardError, match=r"no config\.json of an autoencoder"):
        card_for(str(tmp_path))
    with pytest.raises(WeightsError, match="expected a folder that save_pretrained wrote"):
        load_folder(tmp_path)


def test_two_folders_of_one_name_are_refused_and_one_may_be_named(tmp_path):
    for step in ("1000", "2000"):
        save(tmp_path / step / "vae", "kl")
    first, second = (str(tmp_path / step / "vae") for step in ("1000", "2000"))
    write_pictures(tmp_path / "in", 1)
    said = {"task": ["reconstruction"], "data": str(tmp_path / "in"), "out": tmp_path / "r", "work": tmp_path / "w"}
    with pytest.raises(CardError, match=r"1000/vae and .*2000/vae are both called diffusers-vae; run them one at"):
        run.run(**said, diffusers=[first, second])
    (tmp_path / "w.pt").write_bytes(b"not looked at")
    for given in ("synthetic", str(tmp_path / "w.pt")):
        with pytest.raises(CardError, match="holds weights of its own"):
            run.run(**said, diffusers=[first], weights=[given])
    with pytest.raises(CardError, match="--name says which weights"):
        run.run(**said, diffusers=[first], tokenizer=["jpeg"], name="mine")
    run.run(**said, diffusers=[first, f"{first}/../vae"], name="step-1000")
    assert [one.name for one in results.read_runs(tmp_path / "r")] == ["diffusers-vae~step-1000"]


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: two repositories have a config.json, one of them gated; no file is ever sent twice."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        content = b""
        if self.path == "/":
            self.send_response(200)
        elif self.path.startswith("/gated/"):
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
        elif self.path in ("/open/vae/resolve/main/sub/config.json", "/open-vae/sub/resolve/main/config.json"):
            content = json.dumps({"_class_name": "AutoencoderKL", **TWO_BLOCKS}).encode()
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"1"')
        elif self.path == "/open/vae/resolve/main/sub/diffusion_pytorch_model.bin":
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"2"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *said: object) -> None:
        """A test prints nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "".join(template[1:]))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub")
def test_a_repository_is_described_by_its_configuration(monkeypatch):
    card = card_for("open/vae/sub")
    assert card.name == "open-vae-sub"
    assert (card.weights.hub, card.weights.file) == ("open/vae", "sub/diffusion_pytorch_model.bin")
    assert card.config == {"class": "AutoencoderKL", "values": TWO_BLOCKS}
    assert card.input.multiple_of == card.code.downsampling == 2
    with pytest.raises(CardError, match="open/vae/sub and open-vae/sub are both called open-vae-sub"):
        run.run(task=["reconstruction"], diffusers=["open/vae/sub", "open-vae/sub"])
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert card_for("open/vae/sub/").config == card.config  # from the cache


@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_one_line(monkeypatch):
    with pytest.raises(WeightsError, match=r"gated/vae is gated; accept its terms on the hub") as error:
        card_for("gated/vae")
    one_line(error)
    with pytest.raises(CardError, match=r"open/vae/config\.json: the hub has no such file; .* subfolder vae") as error:
        card_for("open/vae")
    one_line(error)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set") as error:
        card_for("other/vae")
    one_line(error)


def test_every_card_says_what_its_class_does():
    found = [card for card in cards.tokenizers().values() if card.network == "diffusers"]
    assert len(found) == 16
    for card in found:
        config = Config(**card.config)
        facts = FACTS[config.class_name]
        assert card.input.range == facts.span
        assert (card.output.size is None) == (facts.side is None)
        if config.pretrained:
            assert card.weights.hub in config.pretrained
            continue
        entries = complete(config.class_name, config.values)
        assert card.code.latent_channels == facts.channels(entries)
        assert card.code.downsampling == card.input.multiple_of == facts.downsampling(entries)
        assert card.code.tokens_at_256 == (256 // card.code.downsampling) ** 2
        codes = facts.codes(entries)
        assert card.code.codebook_sizes == (() if codes is None else (codes,))
        assert card.kind == ("continuous" if codes is None else "discrete")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("card", "parameters"),
    [
        ("sd-vae-ft-mse", 83_653_863),
        ("flux.1-vae", 83_819_683),
        ("sd3.5-vae", 83_819_683),
        ("flux.2-vae", 84_046_115),
        ("qwen-image-vae", 126_892_531),
        ("cosmos-cv8x8x8", 105_653_696),
    ],
)
@torch.inference_mode()
def test_a_full_card_has_the_published_number_of_parameters(card, parameters):
    with torch.device("meta"):
        network = build_network(cards.find_tokenizer(card))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_codes_without_a_latent_are_refused(tmp_path):
    save(tmp_path, "kl")
    with pytest.raises(DataError, match="hold no latent; AutoencoderKL decodes"):
        load(tmp_path).network.decode(Codes())


def test_a_first_import_within_an_empty_build_leaves_real_constants():
    """In a process of its own: the library's modules make constants as they load."""
    code = (
        "from vtbench import cards, weights; from vtbench.tokenizer import build_network\n"
        "card = cards.find_tokenizer('cosmos-cv8x8x8')\n"
        "network = weights.build_empty(lambda: build_network(card))\n"
        "stored = {id(tensor) for tensor in network.state_dict(keep_vars=True).values()}\n"
        "assert not [name for name, b in network.named_buffers() if b.is_meta and id(b) not in stored]\n"
        "from diffusers.models.autoencoders import autoencoder_kl_cosmos as module\n"
        "import torch\n"
        "held = [v for part in vars(module).values() if isinstance(part, dict) for v in part.values()]\n"
        "assert not [v for v in held if isinstance(v, torch.Tensor) and v.is_meta]"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
