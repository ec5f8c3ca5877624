"""The real `datasets` and hub clients, against a small server here that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import geometry, images
from vtbench.cards import Data, Geometry
from vtbench.data import hub, open_place
from vtbench.data.hub import Source
from vtbench.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    picture(seed).save(sink, "PNG")
    return sink.getvalue()


def parquet(path: Path, seeds: range, **columns: list[object]) -> None:
    """Write pictures in the schema of huaweilin/VTBench: one column `image` of type Image."""
    rows = {"image": [{"bytes": png(seed), "path": None} for seed in seeds], **columns}
    features = datasets.Features({"image": datasets.Image()})
    for name, values in columns.items():
        features[name] = datasets.Dataset.from_dict({name: values}).features[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


README = """---
configs:
- config_name: task1-imagenet
  data_files:
  - split: val
    path: imagenet/val-*
- config_name: task3-multilingual
  data_files:
  - split: Chinese
    path: multilingual/Chinese-*
  - split: Hindi
    path: multilingual/Hindi-*
---
# A data set
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    (root / "README.md").write_text(README)
    parquet(root / "imagenet" / "val-00000-of-00002.parquet", range(3))
    parquet(root / "imagenet" / "val-00001-of-00002.parquet", range(3, 5))
    parquet(root / "multilingual" / "Chinese-00000-of-00001.parquet", range(10, 12), text=["一\n二", "三"])
    parquet(root / "multilingual" / "Hindi-00000-of-00001.parquet", range(12, 15), text=["a", "b", None])
    return root


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    mode: str
    asked: list[str]
    broken: tuple[str, ...] = ()
    """Files that the server breaks off at, by the ends of their paths."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        type(self).asked.append(path)
        files = [str(file.relative_to(self.root)) for file in sorted(self.root.rglob("*")) if file.is_file()]
        if path == "/":
            return self.send(b"")
        if body and self.broken and path.endswith(self.broken):
            return self.send(b"", 403)
        if self.mode != "whole":
            code = {"gated": "GatedRepo", "missing": "RepoNotFound", "no revision": "RevisionNotFound"}[self.mode]
            return self.send(b"", 401 if self.mode == "gated" else 404, {"X-Error-Code": code})
        if path.startswith("/api/datasets/huaweilin/VTBench/tree/"):
            listed = [self.entry(name) for name in files]
            return self.send(json.dumps(listed).encode(), body=body)
        if path.startswith("/api/datasets/huaweilin/VTBench"):
            said = {"id": "huaweilin/VTBench", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self.send(json.dumps(said).encode(), body=body)
        resolve = f"/datasets/huaweilin/VTBench/resolve/{COMMIT}/"
        if path.startswith(resolve) and (self.root / path.removeprefix(resolve)).is_file():
            content = (self.root / path.removeprefix(resolve)).read_bytes()
            about = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            return self.send(content, 200, about, body=body)
        return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})

    def entry(self, name: str) -> dict[str, object]:
        content = (self.root / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send(
        self, content: bytes, status: int = 200, headers: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own; the library reads these settings from the environment when it is imported."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # the oldest clients have none
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path / "hub"


@pytest.fixture
def server(repository: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Hub.root, Hub.mode, Hub.asked, Hub.broken = repository, "whole", [], ()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if hasattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # old clients read it from there
            monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield address
        running.shutdown()


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


IMAGENET = Data(source="hub", hub="huaweilin/VTBench", config="task1-imagenet", split="val")
LANGUAGES = Data(source="hub", hub="huaweilin/VTBench", config="task3-multilingual", split="Chinese+Hindi")


def test_rows_come_in_order_with_the_revision_that_was_read(server: str) -> None:
    source = Source(size=16, data=IMAGENET)
    assert source.revision == COMMIT
    assert [source.sample_id(index) for index in range(len(source))] == [f"{row:05d}" for row in range(5)]
    for index in (4, 0, 3):
        expected = images.from_pil(geometry.resize_and_crop(picture(index), 16))
        assert torch.equal(source.read(index).image, expected)
        assert torch.equal(Source(size=None, data=IMAGENET).read(index).image, images.from_pil(picture(index)))
    assert (source.text, source.attributes) == ("none", frozenset())


def test_only_the_files_of_the_configuration_are_brought(server: str) -> None:
    Source(size=16, data=IMAGENET)
    fetched = {path.rsplit("/resolve/", 1)[1] for path in Hub.asked if "/resolve/" in path}
    assert any("imagenet/val-00001" in path for path in fetched)
    assert not any("multilingual" in path for path in fetched)


def test_what_is_cached_needs_no_network_and_is_the_same(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Source(size=16, data=IMAGENET)
    no_network(monkeypatch)
    Hub.asked.clear()
    again = Source(size=16, data=IMAGENET)
    assert (again.digest, again.revision, Hub.asked) == (first.digest, COMMIT, [])
    assert hub.is_here(IMAGENET)
    for marker in cache.rglob(".vtbench-*"):  # as if another tool had brought it
        marker.unlink()
    assert Source(size=16, data=IMAGENET).digest == first.digest
    (part,) = cache.rglob("val-00001-of-00002.parquet")
    part.unlink()
    with pytest.raises(DataError, match="or only in part"):
        Source(size=16, data=IMAGENET)
    with pytest.raises(DataError, match="or only in part"):
        Source(size=16, data=LANGUAGES)


def test_a_copy_of_half_the_parts_is_not_here_whatever_digest_their_names_hold(cache: Path) -> None:
    snapshot = cache / "datasets--huaweilin--VTBench" / "snapshots" / COMMIT
    parquet(snapshot / "imagenet" / "val-00000-of-00002-b4e5c1b7f1d1d6bb.parquet", range(3))
    (snapshot / "README.md").write_text(README)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    assert not hub.is_here(IMAGENET)
    parquet(snapshot / "imagenet" / "val-00001-of-00002-6ab9c0f1e2d3a4b5.parquet", range(3, 5))
    assert hub.is_here(IMAGENET)


def test_missing_part_is_brought_again(server: str, cache: Path) -> None:
    first = Source(size=16, data=IMAGENET)
    (part,) = cache.rglob("val-00001-of-00002.parquet")
    part.unlink()
    assert not hub.is_here(IMAGENET)
    assert Source(size=16, data=IMAGENET).digest == first.digest


@pytest.fixture
def unnumbered(tmp_path: Path, server: str) -> Path:
    """A data set whose files don't say how many they are."""
    root = tmp_path / "unnumbered"
    for name, seeds in (("a", range(2)), ("b", range(2, 4)), ("c", range(4, 6))):
        parquet(root / "data" / f"{name}.parquet", seeds)
    (root / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: data/**\n---\n")
    Hub.root = root
    return root


SET = Data(source="hub", hub="huaweilin/VTBench")


def test_download_that_breaks_off_is_never_the_whole_set(
    unnumbered: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub.broken = ("c.parquet",)
    for _ in range(2):
        with pytest.raises(DataError, match=r"is not on this machine, or only in part.*403"):
            Source(size=None, data=SET)
        assert [file.name for file in sorted(cache.rglob("snapshots/*/data/*"))] == ["a.parquet", "b.parquet"]
        assert not hub.is_here(SET)
    with monkeypatch.context() as offline:
        no_network(offline)
        with pytest.raises(DataError, match="is not on this machine, or only in part"):
            Source(size=None, data=SET)
    Hub.broken = ("/tree/" + COMMIT, "/revision/" + COMMIT)  # then the client gives what it has, as if it were all
    with pytest.raises(DataError, match="is not on this machine, or only in part"):
        Source(size=None, data=SET)
    Hub.broken = ()
    assert len(Source(size=None, data=SET)) == 6 and hub.is_here(SET)
    assert not list(cache.rglob("*.begun"))


def test_files_that_another_tool_brought_in_part_are_completed(
    unnumbered: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(Source(size=None, data=SET)) == 6
    for file in (*cache.rglob(".vtbench-*"), *cache.rglob("snapshots/*/data/c.parquet")):
        file.unlink()
    with monkeypatch.context() as offline:
        no_network(offline)
        assert len(Source(size=None, data=SET)) == 4
    assert "without the hub's list of its files it can't be told whether all are there" in caplog.text
    assert len(Source(size=None, data=SET)) == 6
    caplog.clear()
    no_network(monkeypatch)
    assert len(Source(size=None, data=SET)) == 6 and not caplog.text


@pytest.mark.parametrize("mode", ["gated", "missing", "no revision", "busy"])
def test_what_another_tool_brought_is_read_where_the_hub_refuses(
    unnumbered: Path, cache: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    assert len(Source(size=None, data=SET)) == 6
    for marker in cache.rglob(".vtbench-*"):
        marker.unlink()
    if mode == "busy":
        Hub.broken = (COMMIT,)
    else:
        Hub.mode = mode
    assert len(Source(size=None, data=SET)) == 6
    assert "without the hub's list of its files it can't be told whether all are there" in caplog.text
    assert "is not on this machine" not in caplog.text


def test_splits_follow_each_other_with_their_names_and_texts(server: str) -> None:
    source = Source(size=16, crop="letterbox", data=LANGUAGES)
    assert source.sample_id(0) == "Chinese/00000" and source.sample_id(2) == "Hindi/00000"
    assert source.text == "page" and source.attributes == {"split"}
    first, last = source.read(0), source.read(4)
    assert [line.text for line in first.lines] == ["一", "二"]
    assert first.attributes == {"split": "Chinese"} and last.attributes == {"split": "Hindi"}
    assert last.lines == ()
    with pytest.raises(IndexError):
        source.sample_id(5)


def test_digest_follows_contents_split_and_size(server: str, repository: Path) -> None:
    by_split = {
        Source(size=16, data=LANGUAGES.model_copy(update={"split": split})).digest for split in ("Chinese", "Hindi")
    }
    assert len(by_split | {Source(size=8, data=LANGUAGES).digest, Source(size=16, data=LANGUAGES).digest}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "task9"}, "expected one of task1-imagenet, task3-multilingual"),
        ({"config": None}, "which configuration"),
        ({"split": "test"}, "has no split 'test'; expected one of val"),
        ({"images": 6}, "has 5 pictures, the card expects 6"),
    ],
)
def test_what_a_card_gets_wrong_is_one_line(server: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Source(size=16, data=IMAGENET.model_copy(update=change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("gated", "is gated; accept its terms"),
        ("missing", "no data set is called huaweilin/VTBench, or it is private"),
        ("no revision", "has no revision"),
    ],
)
def test_what_the_hub_refuses_is_one_line(server: str, mode: str, message: str) -> None:
    Hub.mode = mode
    with pytest.raises(DataError, match=message) as caught:
        Source(size=16, data=IMAGENET)
    assert "\n" not in str(caught.value)


def test_offline_ends_within_seconds_and_says_how_to_bring_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
    for endpoint in ("http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}"):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        started = time.monotonic()
        with pytest.raises(DataError, match=r"task1-imagenet is not on this machine.*vtbench fetch.*HF_HOME") as caught:
            Source(size=16, data=IMAGENET)
        assert endpoint in str(caught.value)
        assert time.monotonic() - started < 5
    silent.close()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        Source(size=16, data=IMAGENET)


def test_parquet_on_this_machine(repository: Path, cache: Path) -> None:
    file = repository / "imagenet" / "val-00000-of-00002.parquet"
    source = Source(size=16, path=file)
    assert len(source) == 3 and source.revision is None
    assert torch.equal(Source(size=None, path=file).read(2).image, images.from_pil(picture(2)))
    copy = Source(size=16, path=repository, data=IMAGENET)
    assert len(copy) == 5
    with pytest.raises(DataError, match="no column holds pictures"):
        datasets.Dataset.from_dict({"a": [1]}).to_parquet(cache.parent / "plain.parquet")
        Source(size=16, path=cache.parent / "plain.parquet")
    (cache.parent / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="can't be opened") as caught:
        Source(size=16, path=cache.parent / "broken.parquet")
    assert "\n" not in str(caught.value)


def test_lines_with_boxes_and_plain_columns(tmp_path: Path, cache: Path) -> None:
    lines = [[{"text": "word", "box": [2, 3, 10, 8]}], []]
    parquet(tmp_path / "a.parquet", range(2), lines=lines, kind=["sign", "plain"], height=[12, 8])
    source = Source(size=None, path=tmp_path / "a.parquet")
    assert source.text == "boxes" and source.attributes == {"kind", "height"}
    sample = source.read(0)
    assert [(line.text, line.box) for line in sample.lines] == [("word", (2, 3, 10, 8))]
    assert sample.attributes == {"kind": "sign", "height": 12.0}


def test_broken_rows_fail_alone(tmp_path: Path, cache: Path) -> None:
    rows = [{"bytes": png(0), "path": None}, None, {"bytes": b"", "path": None}, {"bytes": None, "path": "/etc/passwd"}]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    made = datasets.Dataset.from_dict({"image": rows}, features=features).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "a.parquet")
    source = Source(size=16, path=tmp_path / "a.parquet")
    assert source.read(0).image.shape == (3, 16, 16)
    for index, message in (
        (1, "holds no picture"),
        (2, "not a readable picture"),
        (3, "not among the data set's files"),
    ):
        with pytest.raises(DataError, match=message):
            source.read(index)


def test_patterns_of_a_readme_never_leave_the_data_set(tmp_path: Path, cache: Path) -> None:
    parquet(tmp_path / "secret.parquet", range(1))
    (tmp_path / "set").mkdir()
    for pattern in ("../secret.parquet", str(tmp_path / "secret.parquet"), "https://example.org/a.parquet"):
        head = f"---\nconfigs:\n- config_name: default\n  data_files: {json.dumps(pattern)}\n---\n"
        (tmp_path / "set" / "README.md").write_text(head)
        with pytest.raises(DataError, match="lie outside the data set"):
            Source(size=16, path=tmp_path / "set")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("configs:\n- config_name: a\n- config_name: b\n", "which configuration; expected one of a, b"),
        ("configs:\n- config_name: a\n  default: true\n- config_name: default\n", "names no default configuration"),
        ("configs:\n- data_files: x\n", "its head can't be read"),
        ("configs: [\n", "its head can't be read"),
    ],
)
def test_heads_of_a_readme_are_read_as_the_hub_does(tmp_path: Path, cache: Path, head: str, message: str) -> None:
    parquet(tmp_path / "set" / "a.parquet", range(1))
    (tmp_path / "set" / "README.md").write_text(f"---\n{head}---\n")
    with pytest.raises(DataError, match=message) as caught:
        Source(size=16, path=tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_folder_of_pictures_with_a_table_is_read_too(tmp_path: Path, cache: Path) -> None:
    place = tmp_path / "set"
    place.mkdir()
    for seed in range(2):
        picture(seed).save(place / f"{seed}.png")
    (place / "metadata.csv").write_text("file_name,text\n0.png,hello\n1.png,world\n")
    source = Source(size=None, path=place)
    assert [source.read(index).lines[0].text for index in range(2)] == ["hello", "world"]
    before = source.digest
    (place / "metadata.csv").write_text("file_name,text\n0.png,hello\n1.png,other\n")
    assert Source(size=None, path=place).digest != before


def serve(root: Path, files: dict[str, bytes | str], head: str = "") -> Path:
    """Let the server have a data set of such files; `head` is that of its README."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if head:
        (root / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{head}---\n")
    Hub.root = root
    return root


def packed(**members: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.png", content)
    return sink.getvalue()


@pytest.mark.parametrize("head", ["", "  - split: test\n    path: data/**\n"])
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("metadata.csv", "file_name,text,kind\n0.png,007,1.50\n1.png,NA,2024-01-02\n2.png,1.50,x\n"),
        ("metadata.tsv", "file_name\ttext\n0.png\t007\n1.png\tNA\n2.png\t1.50\n"),
        ("metadata.jsonl", "".join(
            json.dumps({"file_name": f"{seed}.png", "text": text}) + "\n"
            for seed, text in enumerate(("007", "NA", "1.50"))
        )),
    ],
)  # fmt: skip
def test_pictures_of_the_hub_are_read_as_those_of_a_folder(
    server: str, tmp_path: Path, head: str, name: str, table: str
) -> None:
    files: dict[str, bytes | str] = {f"data/{seed}.png": png(seed) for seed in range(3)}
    root = serve(tmp_path / "set", {**files, f"data/{name}": table}, head)
    source, folder = Source(size=None, data=SET), open_place(root, geometry=Geometry(size="native"), data=SET)
    assert [[line.text for line in source.read(index).lines] for index in range(3)] == [["007"], ["NA"], ["1.50"]]
    assert (source.digest, source.text, source.known_text) == (folder.digest, folder.text, folder.known_text)
    assert [source.sample_id(index) for index in range(3)] == [f"data/{seed}.png" for seed in range(3)]
    assert source.revision == COMMIT and source.attributes == folder.attributes
    assert torch.equal(source.read(1).image, images.from_pil(picture(1)))
    with pytest.raises(DataError, match="has 3 pictures, the card expects 4"):
        Source(size=None, data=SET.model_copy(update={"images": 4}))


@pytest.mark.parametrize("head", ["", "  - split: test\n    path: data/**\n"])
def test_pictures_of_the_hub_of_any_kind_are_read_or_counted(server: str, tmp_path: Path, head: str) -> None:
    avif = io.BytesIO()
    picture(0).save(avif, "AVIF")
    serve(tmp_path / "set", {"data/a.avif": avif.getvalue(), "data/b.heic": b"x", "data/c.png.1": png(1)}, head)
    source = Source(size=None, data=SET)
    assert len(source) == 1 and source.read(0).image.shape == (3, 16, 20)
    assert source.passed_over == {".heic files, which are not read": 1, "names that go on behind the ending": 1}


@pytest.mark.parametrize(
    "head",
    [
        "",
        "  - split: train\n    path: [data/train/**, data/metadata.csv]\n"
        "  - split: test\n    path: [data/test/**, data/metadata.csv]\n",
    ],
)
def test_splits_of_pictures_may_share_a_table(server: str, tmp_path: Path, head: str) -> None:
    table = "file_name,text\ntest/0.png,zero\ntrain/1.png,one\n"
    files: dict[str, bytes | str] = {"data/test/0.png": png(0), "data/train/1.png": png(1), "data/metadata.csv": table}
    serve(tmp_path / "set", files, head)
    with pytest.raises(DataError, match=r"which split\? Expected one of train, test"):
        Source(size=None, data=SET)
    test = Source(size=None, data=SET.model_copy(update={"split": "test"}))
    assert len(test) == 1 and test.passed_over == {} and test.sample_id(0) == "data/test/0.png"
    assert [line.text for line in test.read(0).lines] == ["zero"] and test.attributes == set()
    both = Source(size=None, data=SET.model_copy(update={"split": "train+test"}))
    assert [both.read(index).attributes for index in range(2)] == [{"split": "test"}, {"split": "train"}]
    assert both.attributes == {"split"} and both.digest != test.digest
    with pytest.raises(DataError, match="has no split 'dev'; expected one of train, test"):
        Source(size=None, data=SET.model_copy(update={"split": "dev"}))


def test_archives_of_the_hub_are_opened_in_place(server: str, tmp_path: Path) -> None:
    serve(tmp_path / "set", {"data/train.zip": packed(a=png(0), b=png(1)), "data/test.zip": packed(c=png(2))})
    test = Source(size=None, data=SET.model_copy(update={"split": "test"}))
    assert [test.sample_id(index) for index in range(len(test))] == ["data/test/c.png"]
    assert torch.equal(test.read(0).image, images.from_pil(picture(2)))
    both = Source(size=None, data=SET.model_copy(update={"split": "train+test"}))
    assert [both.read(index).attributes["split"] for index in range(3)] == ["test", "train", "train"]


def test_a_table_beside_archives_of_the_hub_speaks_of_their_pictures(server: str, tmp_path: Path) -> None:
    table = "file_name,text,kind\ntrain/a.png,one,x\ntest/c.png,three,y\n"
    archives: dict[str, bytes | str] = {"data/train.zip": packed(a=png(0), b=png(1)), "data/test.zip": packed(c=png(2))}
    serve(tmp_path / "set", {**archives, "data/metadata.csv": table})
    test = Source(size=None, data=SET.model_copy(update={"split": "test"}))
    assert [line.text for line in test.read(0).lines] == ["three"] and test.read(0).attributes == {"kind": "y"}
    both = Source(size=None, data=SET.model_copy(update={"split": "train+test"}))
    assert [[line.text for line in both.read(index).lines] for index in range(3)] == [["three"], ["one"], []]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"images.zip": packed(a=png(0)), "teaser.png": png(1)},
            r"holds 1 picture and 1 archive \(images\.zip\).*name .* with --data",
        ),
        (
            {"images.zip": packed(a=png(0)), "metadata.csv": "file_name,text\na.png,x\n"},
            r"metadata\.csv: row 1 .*names 'a\.png', which is not .* \(there is 'images/a\.png': write it so",
        ),
        ({"rows.csv": "a,b\n1,2\n"}, "holds no picture"),
        ({"images.7z": b"x"}, "holds no picture that is read; passed over: 1 archives of other kinds"),
    ],
)
def test_what_can_not_be_told_to_be_the_set_is_refused(
    server: str, tmp_path: Path, files: dict[str, bytes | str], message: str
) -> None:
    serve(tmp_path / "set", files)
    with pytest.raises(DataError, match=message) as caught:
        Source(size=None, data=SET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", ["", "  - split: test\n    path: data/**\n"])
def test_a_set_without_pictures_says_so_whatever_split_is_asked_for(server: str, tmp_path: Path, head: str) -> None:
    serve(tmp_path / "set", {"data/rows.csv": "a,b\n1,2\n"}, head)
    with pytest.raises(DataError, match="holds no picture; expected files that end in"):
        Source(size=None, data=SET.model_copy(update={"split": "test"}))


def test_place_is_parsed() -> None:
    assert hub.parse("hub:a/b") == Data(source="hub", hub="a/b")
    assert hub.parse("hub:a/b/c-1@refs/pr/1:x+y") == Data(
        source="hub", hub="a/b", config="c-1", revision="refs/pr/1", split="x+y"
    )
    for wrong in ("hub:", "hub:a", "hub:a/../b", "hub:a/b:", "hub:a--b/c", "hub:a/b@../x", "hub:a/b@/etc"):
        with pytest.raises(DataError, match="expected hub:OWNER/NAME"):
            hub.parse(wrong)


def test_hub_is_a_place_for_pictures(server: str) -> None:
    source = open_place(
        "hub:huaweilin/VTBench/task1-imagenet:val", geometry=Geometry(size=16), data=Data(source="sample")
    )
    assert len(source) == 5


@pytest.mark.heavy  # seconds of many processes or networks
def test_command_line_brings_runs_and_runs_again_without_a_network(server: str, tmp_path: Path) -> None:
    from test_cli import one_line, vtbench

    here = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    fetched = vtbench("fetch", "reconstruction-imagenet", HF_ENDPOINT=server, **here)
    assert fetched.returncode == 0, fetched.stderr
    assert COMMIT in fetched.stdout
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", **here}
    place = "hub:huaweilin/VTBench/task1-imagenet:val"
    job = ("run", "-t", "jpeg", "--task", "reconstruction", "--data", place)
    done = vtbench(*job, cwd=tmp_path, **offline)
    assert done.returncode == 0, done.stderr
    assert "5/5" in done.stdout
    assert (tmp_path / "results" / "reconstruction@huaweilin-vtbench-task1-imagenet-val" / "jpeg-q75.json").is_file()
    said = one_line(vtbench("run", "-t", "jpeg", "--task", "reconstruction-imagenet", cwd=tmp_path, **offline))
    assert f"at {COMMIT} has 5 pictures, the card expects 50000" in said


@pytest.mark.parametrize("said", ["", "  data_dir: ./data\n", "  data_files: ./data/*\n"])
def test_patterns_that_begin_with_the_folder_itself_bring_its_files(server: str, tmp_path: Path, said: str) -> None:
    readme = f"---\nconfigs:\n- config_name: default\n{said}---\n"
    serve(tmp_path / "set", {"README.md": readme, "data/a.png": png(0), "data/b.png": png(1)})
    assert len(Source(size=16, data=SET)) == 2
