import flip_evaluator
import numpy as np
import pytest
import torch
from skimage import data

from vtbench.errors import DataError
from vtbench.metrics import flip


def _tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


FLIPPED = {
    "coarse": (data.astronaut()[:96, :128], data.astronaut()[:96, :128] // 32 * 32),
    "odd sides, moved": (data.coffee()[:75, :101], data.coffee()[1:76, 2:103]),
    "another picture": (data.chelsea()[:64, :64], data.astronaut()[:64, :64]),
    "black and white": (np.zeros((20, 24, 3), np.uint8), np.full((20, 24, 3), 255, np.uint8)),
}


@pytest.mark.parametrize("pair", FLIPPED.values(), ids=FLIPPED.keys())
def test_flip_equals_the_program_of_its_authors(pair):
    floats = [(side / 255).astype(np.float32) for side in pair]
    _, wanted, _ = flip_evaluator.evaluate(*floats, "LDR", applyMagma=False)
    # Theirs runs in float32 and sums the map in it.
    assert flip(_tensor(pair[0]), _tensor(pair[1])).item() == pytest.approx(wanted, abs=5e-5)


def test_flip_of_a_batch_is_that_of_its_pictures_in_either_order():
    first, second = data.astronaut()[:48, :64], data.coffee()[:48, :64]
    x = torch.cat([_tensor(first), _tensor(second)])
    y = x // 32 * 32
    found = flip(x, y)
    assert found.dtype == torch.float64
    assert found.tolist() == [flip(x[i : i + 1], y[i : i + 1]).item() for i in range(2)]
    assert flip(y, x).tolist() == pytest.approx(found.tolist(), abs=1e-12)
    assert flip(x, x.clone()).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="uint8"):
        flip(x.float(), y.float())
