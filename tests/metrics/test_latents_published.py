"""Values that the published programs gave on made-up inputs; each case names its repository, commit and file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vtbench.metrics import latents

with np.load(Path(__file__).resolve().parent.parent / "parity" / "latents.npz") as archive:
    ARRAYS = {name: archive[name] for name in archive.files}
CASES = json.loads(str(ARRAYS["cases"]))


def call(function, x, p):
    if function == "spectrum_match":
        count = p.pop("count")
        return latents.spectrum_match(x["images"][:count] / 127.5 - 1, x["z"][:count], **p)
    if function == "interpolation_partners":
        return dict(zip(("indices", "weights"), latents.interpolation_partners(**x, **p), strict=True))
    if function == "heldout_bits":
        train = p.pop("train")
        return latents.heldout_bits(x["tokens"][:train], x["tokens"][train:], **p)
    if function == "perturb_tokens":
        p.pop("count")
    if function == "uniformity":
        return latents.uniformity(**x)
    return getattr(latents, function)(**x, **p)


ON_CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")]
)


def inputs_of(case, kind):
    given = {name: ARRAYS[entry] for name, entry in case["inputs"].items()}
    if kind == "numpy":
        return given
    return {name: torch.from_numpy(value).to("cpu" if kind == "torch" else kind) for name, value in given.items()}


@pytest.mark.parametrize("kind", ["numpy", "torch", ON_CUDA])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_equal_to_the_published_program(case, kind):
    made = call(case["function"], inputs_of(case, kind), dict(case["params"]))
    for name, entry in case["expected"].items():
        found = made[name] if isinstance(made, dict) else made
        if not isinstance(found, float):
            assert isinstance(found, np.ndarray if kind == "numpy" else torch.Tensor)
        if isinstance(found, torch.Tensor):
            assert found.device.type == ("cuda" if kind == "cuda" else "cpu")
            found = found.cpu()
        expected = ARRAYS[entry]
        assert np.asarray(found).shape == expected.shape
        near = np.allclose(np.asarray(found), expected, rtol=case["rtol"], atol=case["atol"], equal_nan=True)
        assert near, (name, math.nan if expected.ndim else (float(found), float(expected)))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_all_is_computed_on_the_inputs_device(case):
    """What is made without a device lands on "meta" here, and torch refuses to mix it with the inputs."""
    given = inputs_of(case, "torch")
    with torch.device("meta"):
        call(case["function"], given, dict(case["params"]))
