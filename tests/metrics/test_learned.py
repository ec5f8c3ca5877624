import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage import data

from vtbench import backbones
from vtbench.errors import DataError, WeightsError
from vtbench.metrics import lpips
from vtbench.metrics.learned import LearnedDistance, SeenOnce, network


def _tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def _package(net):
    """The package's network, put together the plain way: random backbone, then its convolutions one after another."""
    import lpips as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        built = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = load_file(backbones.require(f"lpips-{net}"))
    numbers = sorted({int(name.split(".")[1]) for name in state})
    layers = [layer for layer in built.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for number, layer in zip(numbers, layers, strict=True):
            layer.weight.copy_(state[f"features.{number}.weight"])
            layer.bias.copy_(state[f"features.{number}.bias"])
    return built


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_equals_the_lpips_package(net):
    picture = _tensor(data.astronaut()[:72, :80])
    pictures = torch.cat([picture, _tensor(data.coffee()[100:172, 200:280])])
    others = torch.cat([picture // 16 * 16, pictures[1:].roll(3, dims=-1)])
    found = lpips(pictures, others, net=net)
    with torch.inference_mode():
        wanted = _package(net)(pictures / 127.5 - 1, others / 127.5 - 1).flatten()
    assert found.dtype == torch.float64
    assert found.shape == (2,)
    # float32 networks; torch's convolutions sum in another order from call to call at most.
    assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_the_documented_value_of_torchmetrics_comes_out():
    # It documents 0.3566 for net_type="vgg": seed 123, then its network is built (which draws VGG16's first values and
    # those of the five heads), then two batches of rand(10, 3, 100, 100), read as if within [-1, 1].
    from torchvision.models import vgg16

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        vgg16(weights=None, init_weights=False)
        for channels in (64, 128, 256, 512, 512):
            torch.nn.Conv2d(channels, 1, 1, bias=False)
        first, second = torch.rand(10, 3, 100, 100), torch.rand(10, 3, 100, 100)
    with torch.inference_mode():
        found = network("vgg", torch.device("cpu"))(first, second).mean().item()
    assert found == pytest.approx(0.3566, abs=5e-5)  # four printed digits


def test_pictures_that_are_kept_are_looked_at_once_and_those_that_are_gone_are_forgotten(monkeypatch):
    looked = []
    features = LearnedDistance.features
    monkeypatch.setattr(LearnedDistance, "features", lambda self, x: looked.append(len(x)) or features(self, x))
    one, other = _tensor(data.chelsea()[:40, :56]), _tensor(data.chelsea()[60:100, :56])
    wanted = [lpips(one, other).item(), lpips(other, one.flip(3)).item()]
    looked.clear()
    measure = SeenOnce()
    assert measure(one, other).item() == wanted[0]
    assert measure(other, one.flip(3)).item() == wanted[1]  # the flipped one dies at once
    assert len(looked) == 3
    assert measure(other, one.flip(2)).item() == lpips(other, one.flip(2)).item() != wanted[1]
    assert len(measure._features) == 2


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_pictures_have_zero_and_the_order_does_not_matter(net):
    picture, other = _tensor(data.chelsea()[:40, :56]), _tensor(data.chelsea()[60:100, :56])
    assert lpips(picture, picture.clone(), net=net).item() == 0.0
    assert lpips(picture, other, net=net).item() == pytest.approx(lpips(other, picture, net=net).item(), abs=1e-6)
    assert lpips(picture, other, net=net).item() > 0.1


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_a_picture_under_the_network_is_refused(net, smallest):
    image = torch.zeros(1, 3, smallest, smallest, dtype=torch.uint8)
    assert lpips(image, image, net=net).item() == 0.0
    with pytest.raises(DataError, match=f"at least {smallest}x{smallest}"):
        lpips(image[..., 1:], image[..., 1:], net=net)


def test_an_unknown_backbone_is_refused():
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(DataError, match="alex, vgg"):
        lpips(image, image, net="squeeze")


def test_floats_are_refused():
    with pytest.raises(DataError, match="uint8"):
        lpips(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))


def test_random_numbers_and_gradients_are_left_alone():
    network.cache_clear()
    before, tf32 = torch.random.get_rng_state(), torch.backends.cudnn.conv.fp32_precision
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    value = lpips(image, image)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not value.requires_grad
    assert torch.backends.cudnn.conv.fp32_precision == tf32


def test_a_missing_backbone_is_an_error_that_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("VTBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network.cache_clear()
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"lpips-vgg\.safetensors.*vtbench fetch lpips"):
        lpips(image, image, net="vgg")
    assert time.monotonic() - start < 1.0


def test_importing_the_metrics_loads_none_of_the_packages_behind_them():
    code = "import sys, vtbench.metrics; print([p for p in ('lpips', 'torch_fidelity', 'easyocr') if p in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert done.stdout.strip() == "[]"
