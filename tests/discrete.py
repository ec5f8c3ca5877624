"""Every discrete network in a size that a test can run, by the names of its card: 64 px, made-up weights."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from vtbench import cards
from vtbench.cards import Code
from vtbench.tokenizer import Network, Tokenizer, build_network
from vtbench.weights import load_state, synthetic_state

_LAYOUT = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1, "z_channels": 16}
_HALF = {"width": 32, "layers": 1, "heads": 2}
_FLOW = {"width": 32, "heads": 2, "layers": 1, "axes": [4, 6, 6]}
_PIXELS = {"channels": 32, "multipliers": [1, 1, 1, 1, 1], "blocks": 1, "z_channels": 16}

SMALL: dict[str, dict[str, object]] = {
    "tiny-fsq-f16": {},
    "ibq-1024": _LAYOUT | {"codebook_size": 300, "code_channels": 8},
    "llamagen-ds16": _LAYOUT | {"codebook_size": 300},
    "vqgan-imagenet-f16-1024": _LAYOUT | {"codebook_size": 300, "code_channels": 8},
    "vqgan-gumbel-f8-8192": _LAYOUT | {"codebook_size": 300, "code_channels": 8},
    "maskbit-16bit": {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1},
    "open-magvit2-256": {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1},
    "bsqvit-18bit": _HALF | {"size": 64},
    "bsqvit-36bit": _HALF | {"size": 64},
    "var-256": _LAYOUT | {"codebook_size": 300, "schedules": [[1, 2, 4, 8, 16]]},
    "infinity-d16": _LAYOUT,
    "dnd-16x16x2": _LAYOUT | {"codebook_size": 300, "code_channels": 8},
    "unicode-hqvae": _LAYOUT | {"codebook_size": 300, "code_channels": 32},
    "titok-bl64-vq8k": {"encoder": _HALF, "decoder": _HALF, "codebook_size": 300, "token_channels": 8, "size": 64},
    "titok-l32": {
        "encoder": _HALF,
        "decoder": _HALF,
        "codebook_size": 300,
        "size": 64,
        "pixels": {"channels": 32, "multipliers": [1, 1, 1, 1, 1], "blocks": 1},
    },
    "tokenflow-clipb-32k-enhanced": {
        **{"pixel_encoder": _PIXELS, "pixel_decoder": _PIXELS, "width": 32, "blocks": 1, "heads": 2, "grid": 4},
        **{"codebook_size": 300, "sides": [1, 2, 4]},
    },
    "unitok-large": {
        **{"stem": 16, "middle": 16, "stem_blocks": 1, "middle_blocks": 1, "width": 64, "blocks": 1, "heads": 2},
        **{"codebooks": 2, "codebook_size": 300},
    },
    "flowmo-lo": {"positions": 8, "encoder": _FLOW, "decoder": _FLOW, "steps": 2},
    "atoken-sod": {"width": 64, "heads": 2, "hidden": 32, "blocks": 1},
    "movq-f8-16384": {
        "class": "VQModel",
        "values": {
            "block_out_channels": [32, 32],
            "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
            **{"layers_per_block": 1, "latent_channels": 4, "num_vq_embeddings": 300, "vq_embed_dim": 4},
            "norm_type": "spatial",
        },
    },
}
"""What differs from the card's own [config]."""


def small(name: str) -> Tokenizer:
    card = cards.find_tokenizer(name)
    if card.network == "diffusers":
        pytest.importorskip("diffusers")
    sizes = (64,) if card.input.sizes else ()
    update = {
        "config": SMALL[name] if "class" in SMALL[name] else card.config | SMALL[name],
        "input": card.input.model_copy(update={"sizes": sizes}),
        "code": Code(indices_per_token=card.code.indices_per_token),
    }
    card = card.model_copy(update=update)
    network = build_network(card)
    load_state(network, synthetic_state(network))
    tokenizer = Tokenizer(card, cast("Network", network), state="synthetic", digest="0" * 64)
    sizes_of_codes = tokenizer.encode(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).codebook_sizes
    code = card.code.model_copy(update={"codebook_sizes": sizes_of_codes})
    tokenizer.card = card.model_copy(update={"code": code})
    return tokenizer
