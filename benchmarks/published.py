"""How fast networks encode and decode beside the published code: both in one process, turn by turn, on one thread.

    python benchmarks/published.py --checkouts DIR [NAME...]

DIR holds checkouts of the authors' repositories by their names (1d-tokenizer, maskbit, DnD-Transformer, FlowMo); what
they import (einops, omegaconf, accelerate, mup) must be installed. Both sides have the same made-up weights. A ratio is
the published code's CPU time over ours, best of several turns each: above 1 ours is the faster.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from vtbench import load_tokenizer
from vtbench.weights import fill_values

Published = tuple[nn.Module, Callable[[Tensor], Any], Callable[[Any], Tensor]]
"""A network of the authors', what encodes with it, and what decodes that."""


def titok(name: str) -> Published:
    """TiTok of bytedance/1d-tokenizer."""
    from omegaconf import OmegaConf

    titok_module = import_module("modeling.titok")
    file = {"titok-b64": "titok_b64.yaml", "titok-bl128-vq8k": "titok_bl128_vq8k.yaml"}[name]
    config = OmegaConf.load(Path(sys.path[0]) / "configs" / "infer" / "TiTok" / file)
    network = titok_module.TiTok(config)
    return network, lambda x: network.encode(x)[1]["min_encoding_indices"], network.decode_tokens


def maskbit(name: str) -> Published:
    """MaskBit of markweberdev/maskbit."""
    from omegaconf import OmegaConf

    file = Path(sys.path[0]) / "configs" / "tokenizer" / f"maskbit_tokenizer_{name.removeprefix('maskbit-')}.yaml"
    config = OmegaConf.load(file).model.vq_model
    network = import_module("modeling.conv_vqgan").ConvVQModel(config)
    return network, lambda x: network.encode(x)[1]["min_encoding_indices"].flatten(1), network.decode_tokens


def dnd(name: str) -> Published:
    """The RQ-VAE of chenllliang/DnD-Transformer, in the layout that its card states."""
    layout = {
        "double_z": False,
        "z_channels": 256,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.0,
    }
    depth = int(name[-1])
    package = ModuleType("rqvae.models")  # its own __init__ imports a transformer that Python 3.11 refuses
    package.__path__ = [str(Path(sys.path[0]) / "rqvae" / "models")]
    sys.modules["rqvae.models"] = package
    network = import_module("rqvae.models.rqvae.rqvae").RQVAE(
        embed_dim=256,
        n_embed=16384,
        latent_shape=[16, 16, 256],
        code_shape=[16, 16, depth],
        shared_codebook=True,
        restart_unused_codes=True,
        ddconfig=layout,
    )
    return network, network.get_codes, network.decode_code


def flowmo(name: str) -> Published:
    """FlowMo of kylesargent/FlowMo, not compiled; its decoder is called as often as ours."""
    from omegaconf import OmegaConf

    torch._dynamo.config.disable = True
    models = import_module("flowmo.models")
    config = OmegaConf.load(Path(sys.path[0]) / "flowmo" / "configs" / "base.yaml")
    bits, codes = {"flowmo-lo": (9, 2), "flowmo-hi": (14, 4)}[name]
    config.model.codebook_size_for_entropy, config.model.context_dim = bits, bits * codes
    network = models.FlowMo(width=config.model.mup_width, config=config)
    for module in network.modules():
        if hasattr(module, "width_mult"):
            module.width_mult = lambda: 1.0  # what its base shapes would say is a factor, and no work
    noise = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def decode(code: Tensor) -> Tensor:
        given = torch.cat([code, torch.ones_like(code[..., :1])], dim=-1)
        settings = {"sample_steps": FLOW_STEPS, "cfg": config.eval.sampling.cfg, "schedule": "pow_0.25"}
        return models.rf_sample(network, noise, given, null_code=0.0 * given, **settings)[-1]

    return network, lambda x: network._quantize(network.encode(x)[0])[0], decode


FLOW_STEPS = 2
"""Steps of FlowMo's sampler on both sides, where the cards take 25: each costs the same."""

FAMILIES: dict[str, tuple[str, Callable[[str], Published]]] = {
    "titok": ("1d-tokenizer", titok),
    "maskbit": ("maskbit", maskbit),
    "dnd": ("DnD-Transformer/src", dnd),
    "flowmo": ("FlowMo", flowmo),
}
"""By a card's family: the checkout whose modules are imported, and what builds the network of a card."""


def own(name: str) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Build ours, and say what does the same work as the published functions."""
    network: Any = load_tokenizer(name, weights="synthetic", device="cpu").network
    if name.startswith("flowmo"):
        network = type(network)(network.config.model_copy(update={"steps": FLOW_STEPS})).eval()
    return network.encode, network.decode


def measure(name: str, checkouts: Path, turns: int) -> str:
    """Time both sides of one card, and write a row of the table."""
    folder, build = FAMILIES[name.partition("-")[0]]
    sys.path.insert(0, str(checkouts / folder))
    with torch.no_grad():
        network, encode, decode = build(name)
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point() and not key.startswith("quantize.codebook"):
                tensor.copy_(torch.from_numpy(fill_values(key, tuple(tensor.shape))))
        network.eval()
        mine = own(name)
        x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
        best = {"theirs": [float("inf")] * 2, "ours": [float("inf")] * 2}
        for _ in range(turns + 1):  # of the first, allocation takes a part
            for side, (first, second) in (("theirs", (encode, decode)), ("ours", mine)):
                start = time.process_time()
                codes = first(x)
                between = time.process_time()
                second(codes)
                spent = (between - start, time.process_time() - between)
                best[side] = [min(pair) for pair in zip(best[side], spent, strict=True)]
    cells = [f"{1000 * best['ours'][part]:.0f} | {best['theirs'][part] / best['ours'][part]:.2f}" for part in (0, 1)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print one Markdown table; each card in a process of its own, for their modules have the same names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["titok-b64", "titok-bl128-vq8k", "maskbit-16bit", "dnd-16x16x4"])
    parser.add_argument("--checkouts", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        print(measure(options.names[0], options.checkouts, options.turns))
        return
    print("| network | encode ms | times as fast | decode ms | times as fast |\n| :-- | --: | --: | --: | --: |")
    for name in options.names:
        command = [sys.executable, __file__, name, "--one", "--checkouts", str(options.checkouts)]
        subprocess.run([*command, "--turns", str(options.turns)], check=True)


if __name__ == "__main__":
    main()
