"""The real hub client, through the command line, against a small server here that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import one_line, vtbench

CONTENT = bytes(range(256)) * 98304  # 24 MiB: the client keeps what it got in steps of 10
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "/TencentARC/IBQ-Tokenizer-16384/resolve/main/imagenet256_16384.ckpt"
KVAE = "/kandinskylab/KVAE-2D-1.0/resolve/main/diffusers"
FILES = (FILE, f"{KVAE}/diffusion_pytorch_model.safetensors")


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mode: str
    asked: list[tuple[str, str, str | None]]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        wanted = self.headers.get("Range")
        type(self).asked.append((self.command, self.path, wanted))
        if self.path == "/":
            return self.empty(200)
        if self.mode == "gated":
            return self.empty(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."})
        if self.mode == "missing":
            return self.empty(404, {"X-Error-Code": "EntryNotFound"})
        if self.path in FILES:
            about = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{hashlib.sha256(CONTENT).hexdigest()}"'}
            return self.empty(302, {**about, "X-Linked-Size": str(len(CONTENT)), "Location": self.elsewhere()})
        if self.path == f"{KVAE}/config.json":
            return self.empty(200, {"X-Repo-Commit": COMMIT, "ETag": '"1"'})
        if self.path != "/cdn/blob":
            return self.empty(404, {"X-Error-Code": "RepoNotFound"})
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        content = CONTENT[start:]
        if self.mode == "another size":
            content = content[:-1000]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.end_headers()
        if body:
            broken = self.mode == "broken" and start == 0
            self.wfile.write(content[: 16 << 20] if broken else content)
            self.close_connection = broken
        return None

    def elsewhere(self) -> str:
        """Another host, as the hub's storage is: the client reads a file's commit before it goes there."""
        return f"http://localhost:{self.server.server_address[1]}/cdn/blob"

    def empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    Hub.asked, Hub.mode = [], "whole"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        server.shutdown()


def cached(hub: dict[str, str]) -> list[Path]:
    return list(Path(hub["HF_HUB_CACHE"]).rglob("*.ckpt"))


def test_file_is_fetched_through_a_redirect_and_found_again(hub: dict[str, str]) -> None:
    done = vtbench("fetch", "ibq-16384", **hub)
    assert done.returncode == 0, done.stderr
    assert "licence" in done.stdout
    (path,) = cached(hub)
    assert path.read_bytes() == CONTENT
    assert "resolve" not in vtbench("show", "ibq-16384", **hub).stdout
    Hub.asked.clear()
    again = vtbench("fetch", "ibq-16384", **hub)
    assert str(path) in again.stdout.replace("\n", "")
    assert Hub.asked == [], "what is cached needs no network"


def test_a_published_configuration_is_fetched_with_the_weights(hub: dict[str, str]) -> None:
    def here() -> str:
        said = vtbench("list", "--json", **{**hub, "HF_HUB_OFFLINE": "1"}).stdout
        return next(row["cached"] for row in json.loads(said) if row["name"] == "kvae-2d-1.0")

    done = vtbench("fetch", "kvae-2d-1.0", **hub)
    assert done.returncode == 0, done.stderr
    (config,) = Path(hub["HF_HUB_CACHE"]).rglob("config.json")
    assert here() == "yes"
    config.unlink()
    assert here() == "no", "its network could not be built"
    assert "config.json is not in the hub's cache" in one_line(
        vtbench("fetch", "kvae-2d-1.0", **{**hub, "HF_HUB_OFFLINE": "1"})
    )
    assert vtbench("fetch", "kvae-2d-1.0", **hub).returncode == 0
    assert here() == "yes"


def test_broken_connection_resumes(hub: dict[str, str]) -> None:
    Hub.mode = "broken"
    done = vtbench("fetch", "ibq-16384", **hub)
    if done.returncode:  # a client that gives up keeps what it has; the same command goes on from there
        one_line(done)
        done = vtbench("fetch", "ibq-16384", **hub)
    assert done.returncode == 0, done.stderr
    assert cached(hub)[0].read_bytes() == CONTENT
    assert any(wanted and not wanted.startswith("bytes=0-") for _, _, wanted in Hub.asked)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("gated", "is gated; accept its terms on the hub"),
        ("missing", "404"),
        ("another size", "ibq-16384"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub: dict[str, str], mode: str, message: str) -> None:
    Hub.mode = mode
    assert message in one_line(vtbench("fetch", "ibq-16384", **hub))
    assert cached(hub) == []


def test_file_that_is_no_checkpoint_is_refused_before_anything_is_computed(hub: dict[str, str], tmp_path: Path) -> None:
    done = vtbench("run", "-t", "ibq-16384", "--task", "reconstruction", cwd=tmp_path, **hub)
    assert "fetch it again" in one_line(done)
    assert not list(tmp_path.glob("results/*/*.json"))


def test_offline_mode_asks_nobody(hub: dict[str, str]) -> None:
    said = one_line(vtbench("fetch", "ibq-16384", **{**hub, "HF_HUB_OFFLINE": "1"}))
    assert "HF_HUB_OFFLINE is set" in said
    assert Hub.asked == []
