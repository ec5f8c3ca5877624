"""Every block of code in the documentation is run, as a reader would run it, in the order in which it stands.

Each document has one folder with the files that its text speaks of (`my-pictures/`, `last.ckpt`, …), made here. The
rules: bash is run by bash; `vtbench run` there takes two pictures unless the block says how many, since whole tasks
take minutes; `pip install` takes the wheel that is built here, into a folder of its own, without an index; the hub is a
small server on this machine. Python runs as a program, behind lines that make the objects that the text takes for
granted. TOML and JSON become the files that the text says they are, and are used. What can't be run is in NOT_RUN.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from builders import write_pictures
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from vtbench import cards
from vtbench.results import Run, read_runs, write
from vtbench.tokenizer import build_network
from vtbench.weights import synthetic_state

ROOT = Path(__file__).resolve().parent.parent

NOT_RUN = {
    "make demo ": ".ci/run runs both lines; a test that ran `make test` would run itself",
    "--nproc-per-node": "takes a machine with eight GPUs, or several; tests/test_team.py runs torchrun on this one",
    "--processes 8": "takes a machine with eight GPUs; tests/test_team.py shares runs on this one",
    "srun vtbench run": "takes Slurm",
    "vtbench merge reconstruction@imagenet-val": "takes the parts of an array job; tests/test_team.py merges such",
    "vtbench fetch rfid": "brings what the package index does not have",
    "python training/pool.py": "downloads a gigabyte of Debian's packages and trains for two hours: `make train`",
}
"""The blocks that hold these lines are not run here, and why."""


class Block(NamedTuple):
    document: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text()
    found = re.finditer(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(document, text[: one.start()].count("\n") + 1, one[1], one[2]) for one in found]


def documents() -> list[str]:
    """All Markdown of the repository that holds a block of code."""
    folders = ("", "docs", "tasks", "tokenizers", "training", "examples", "examples/plugin", "results", "benchmarks")
    paths = sorted(path for folder in folders for path in (ROOT / folder).glob("*.md"))
    names = [path.relative_to(ROOT).as_posix() for path in paths]
    return [name for name in names if "```" in (ROOT / name).read_text()]


# --- where they run ---------------------------------------------------------------------------------------------------

VTBENCH = """#!{python}
import sys
from vtbench.cli import main
if sys.argv[1] == "run" and "--limit" not in sys.argv:
    sys.argv += ["--limit", "2"]
main()
"""

PIP = """#!/bin/sh
command=$1; shift
exec {python} -m pip "$command" --no-index --no-deps --no-build-isolation --target {site} --find-links {wheels} "$@"
"""


class Place:
    """A folder with its own commands, in which the blocks of one document are run."""

    def __init__(self, folder: Path, wheels: Path, **environment: str) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.site, bin = folder / "site", folder / "bin"
        bin.mkdir()
        for name, script in (("vtbench", VTBENCH), ("pip", PIP)):
            (bin / name).write_text(script.format(python=sys.executable, site=self.site, wheels=wheels))
            (bin / name).chmod(0o755)
        (bin / "python").symlink_to(sys.executable)
        self.environment = {
            **os.environ,
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(self.site), str(ROOT)]),  # the wheel, where one was installed
            "PYTHONSAFEPATH": "1",
            "COLUMNS": "100",
            **environment,
        }

    def shell(self, block: Block, folder: Path | None = None) -> str:
        return self._done(["bash", "-euo", "pipefail", "-c", block.text], block.place, folder)

    def python(self, block: Block, before: str = "", after: str = "") -> str:
        program = "\n".join((before, block.text, after))
        return self._done([sys.executable, "-c", program], block.place, None)

    def command(self, *arguments: object) -> str:
        return self._done(["vtbench", *map(str, arguments)], f"vtbench {arguments[0]}", None)

    def runs(self) -> dict[tuple[str, str], Run]:
        return {(run.task, run.name): run for run in read_runs(self.folder / "results")}

    def _done(self, command: list[str], what: str, folder: Path | None) -> str:
        path = self.environment["PATH"]
        done = subprocess.run(
            command,
            cwd=folder or self.folder,
            env=self.environment,
            executable=next(found for part in path.split(":") if (found := Path(part, command[0])).is_file()),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{what}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return out


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the files of a folder as the hub does: OWNER/NAME/resolve/main/FILE."""

    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        repository, _, file = self.path.partition("/resolve/")
        path = self.folder / repository.strip("/") / file.partition("/")[2]
        content = path.read_bytes() if file and path.is_file() else b""
        self.send_response(200 if content or self.path == "/" else 404)
        if content:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        elif self.path != "/":
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """A test prints nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    Hub.folder = tmp_path / "hub"
    Hub.folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        server.shutdown()


# --- what the texts take for granted ----------------------------------------------------------------------------------


def write_sign(folder: Path, line: str) -> None:
    """A picture of what a line of a table says: its text, black on white, in its box."""
    folder.mkdir()
    (folder / "metadata.jsonl").write_text(line)
    said = json.loads(line)
    picture = Image.new("RGB", (160, 160), "white")
    for one in said["lines"]:
        left, top, right, bottom = one["box"]
        font = ImageFont.truetype(ROOT / "vtbench" / "assets" / "fonts" / "DejaVuSans.ttf", bottom - top - 12)
        middle = ((left + right) / 2, (top + bottom) / 2)
        ImageDraw.Draw(picture).text(middle, one["text"], "black", font, anchor="mm")
    picture.save(folder / said["file_name"])


def sign_line() -> str:
    (block,) = (one for one in blocks("tasks/README.md") if one.language == "json")
    return block.text


def published(card: str) -> dict[str, torch.Tensor]:
    """Made-up weights of a card's network under the published names, as its authors' trainer holds them."""
    return synthetic_state(build_network(cards.find_tokenizer(card)))


def save_trained(state: dict[str, torch.Tensor], path: Path, prefix: str = "") -> None:
    """Save as IBQ's trainer does: the weights, their average under names without dots, and what belongs to the loss."""
    plain = {f"{prefix}{name}": one.half() for name, one in state.items()}
    averaged = {f"model_ema.{name.replace('.', '')}": one.half() for name, one in state.items()}
    extra = {"loss.discriminator.weight": torch.zeros(2)}
    torch.save({"state_dict": {**plain, **averaged, **extra}, "epoch": 3}, path)


MODELS = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, codes=None):
        super().__init__()
        self.codes = codes
        self.encoder, self.decoder = nn.Conv2d(3, codes or 8, 4, 4), nn.ConvTranspose2d(codes or 8, 3, 4, 4)

    def encode(self, x):
        z = self.encoder(x)
        return z if self.codes is None else z.argmax(1)

    def decode(self, z):
        return self.decoder(z if self.codes is None else nn.functional.one_hot(z, self.codes).movedim(-1, 1).float())


class Logger:
    def __init__(self):
        self.rows = []

    def log(self, values, step=None):
        self.rows.append((step, values))


torch.set_num_threads(1)
model, logger = Model(), Logger()
"""

LOOP = """
def train_step(model, batch):
    loss = ((model.decoder(model.encoder(batch)) - batch) ** 2).mean()
    loss.backward()

model = Model(codes=64)
loader = [torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)]
"""

LIGHTNING = """
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = Model()

    def training_step(self, batch, index):
        return ((self.model.decode(self.model.encode(batch)) - batch) ** 2).mean()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


trainer = lightning.Trainer(
    max_epochs=1, callbacks=[Scores()], accelerator="cpu", logger=False, enable_checkpointing=False,
    num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
)
batches = torch.utils.data.DataLoader(torch.zeros(2, 3, 32, 32))
trainer.fit(Module(), batches, batches)
assert 0 < trainer.callback_metrics["reconstruction/lpips"] < 2
"""

ACCELERATE = """
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

class Kept(GeneralTracker):
    name, requires_logging_directory, tracker, rows = "kept", False, None, []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **_):
        self.rows.append((step, values))

accelerator = Accelerator(cpu=True, log_with=Kept())
accelerator.init_trackers("trial")
model, step = accelerator.prepare(model), 20000
"""

SHARED = """
from pathlib import Path

from vtbench import evaluate, wrap

torch.manual_seed(0)
model, folder, world = Model(), Path("shared"), 2
"""

# --- the documents ----------------------------------------------------------------------------------------------------


def run_readme(place: Place, found: list[Block]) -> None:
    diffusers = pytest.importorskip("diffusers")
    write_pictures(place.folder / "my-pictures", 2)
    write_sign(place.folder / "my-signs", sign_line())
    save_trained(published("ibq"), place.folder / "last.ckpt")
    small = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = diffusers.AutoencoderKL(**small, block_out_channels=[8, 16], norm_num_groups=4)
    vae.save_pretrained(Hub.folder / "OWNER" / "NAME" / "vae")
    metric, aside = place.folder / "metric", place.folder / "aside"
    metric.mkdir()
    aside.mkdir()
    for block in found:
        if block.language == "bash" and "vtbench check" in block.text:
            released(place)
            place.shell(block)
        elif block.language == "bash":
            folders = {"--metric": metric, "--protocol": aside}  # the main job's runs are full ones, which stay
            place.shell(block, next((folder for word, folder in folders.items() if word in block.text), None))
        elif "def worst_level" in block.text:
            (metric / "my_metrics.py").write_text(block.text)
        elif block.language == "toml":
            (metric / "pyproject.toml").write_text(block.text)
        elif "wrap(model" in block.text:
            place.python(block, MODELS, "assert 0 < logger.rows[0][1]['reconstruction/lpips'] < 2")
        else:
            value = r"\d\.\d+"
            assert re.fullmatch(rf"{value} {value}", place.python(block).strip())
    runs = place.runs()
    assert runs["text", "ibq-262144~step-20000"].weights == "local"
    assert runs["reconstruction@my-pictures", "tiny-fsq-f8"].pictures.found == 2
    assert runs["text@my-signs", "tiny-fsq-f8"].scores["cer"].value is not None
    assert runs["reconstruction", "owner-name-vae"].weights == "published"
    assert {"tiny-fsq-f8", "tiny-fsq-f8@seed-voken"} == {run.name for run in read_runs(aside / "results")}
    own = read_runs(metric / "results")[0].scores["worst_level"]
    assert own.value is not None and 0 < own.value <= 255
    assert (place.folder / "results" / "LEADERBOARD.md").is_file()
    assert (place.site / "vtbench" / "_cards").is_dir()  # all of that was the wheel


def released(place: Place) -> None:
    """A card of one's own for the gate, its new weights, and the run of the version that is released."""
    card = (ROOT / "tokenizers" / "ibq-16384.toml").read_text()
    layout = "codebook_size = 64\ncode_channels = 8\nchannels = 32\nz_channels = 32\nblocks = 1"
    card = re.sub(r"^codebook_size = 16384$", layout, card, flags=re.MULTILINE).replace("[16384]", "[64]")
    card = re.sub(r"^name = .*$", 'name = "my-ibq"', card, flags=re.MULTILINE)
    card = re.sub(r"^aliases = .*\n", "", card, flags=re.MULTILINE)
    (place.folder / "cards").mkdir()
    (place.folder / "cards" / "my-ibq.toml").write_text(card)
    network = build_network(cards.find_tokenizer("my-ibq", place.folder / "cards"))
    save_trained(synthetic_state(network), place.folder / "new.ckpt")
    asked = ("-t", "my-ibq", "--cards", "cards", "--task", "reconstruction", "--weights", "new.ckpt")
    place.command("run", *asked, "--name", "last", "--work", "released", "--out", "released-results")


def run_contributing(place: Place, found: list[Block]) -> None:
    """The network, in a package of one's own with an entry point, and a card in a folder of one's own."""
    (block,) = found
    (place.folder / "pooling.py").write_text(block.text)
    about = place.site / "pooling-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pooling\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[vtbench.networks]\npooling = pooling\n")
    (place.folder / "pooling.py").rename(place.site / "pooling.py")
    (place.folder / "cards").mkdir()
    (place.folder / "cards" / "pooling-f4.toml").write_text(
        'name = "pooling-f4"\nfamily = "pooling"\nnetwork = "pooling"\nkind = "continuous"\ntitle = "Average pooling"\n'
        "[config]\nfactor = 4\n[input]\nrange = [-1.0, 1.0]\nmultiple_of = 4\n"
    )
    write_pictures(place.folder / "cats", 2)
    place.command("run", "-t", "pooling-f4", "--cards", "cards", "--task", "reconstruction", "--data", "cats")
    run = place.runs()["reconstruction@cats", "pooling-f4"]
    assert run.scores["psnr"].value is not None
    assert "no rate" in (run.scores["bpp"].reason or "")


def run_tasks(place: Place, found: list[Block]) -> None:
    """The card, with pictures of one's own in place of the hub's, and the table of a text picture."""
    (card,) = (block.text for block in found if block.language == "toml")
    (place.folder / "cards").mkdir()
    (place.folder / "cards" / "my-photos.toml").write_text(card)
    write_pictures(place.folder / "photos", 2)
    (place.folder / "photos" / "metadata.csv").write_text("file_name,category\n000.png,cat\n001.png,dog\n")
    place.command("run", "-t", "jpeg", "--cards", "cards", "--task", "my-photos", "--data", "photos")
    run = place.runs()["my-photos@photos", "jpeg-q75"]
    assert run.scores["lpips"].value is not None
    assert set(run.groups["category"]) == {"cat", "dog"}
    assert all(block.language in ("toml", "json") for block in found)
    write_sign(place.folder / "signs", sign_line())
    place.command("run", "-t", "jpeg", "--task", "text", "--data", "signs")
    run = place.runs()["text@signs", "jpeg-q75"]
    assert run.scores["cer"].value == 0  # the engine reads in the box what the line says


def run_tokenizers(place: Place, found: list[Block]) -> None:
    """The card with a checkpoint that has all it speaks of, and the same with encoder and decoder in two files."""
    whole, parts = found
    (place.folder / "cards").mkdir()
    path = place.folder / "cards" / "my-ibq.toml"
    path.write_text(whole.text)
    state = published("ibq-16384")
    save_trained(state, place.folder / "last.ckpt", prefix="module.")
    said = place.command("show", "my-ibq", "--cards", "cards")
    assert "IBQ, retrained on my data" in said
    asked = ("-t", "my-ibq", "--cards", "cards", "--task", "reconstruction", "--limit", "1")
    place.command("run", *asked, "--weights", "last.ckpt", "--name", "last")
    run = place.runs()["reconstruction", "my-ibq~last"]
    assert run.ema == len(state)

    state = published("taesd")
    (Hub.folder / "me" / "two-files").mkdir(parents=True)
    section = parts.text
    for side in ("encoder", "decoder"):
        file = Hub.folder / "me" / "two-files" / f"{side}.safetensors"
        own = {name.removeprefix(f"{side}."): one for name, one in state.items() if name.startswith(f"{side}.")}
        save_file(own, file)
        whose = rf'(file = "{file.name}"\n(?:.+\n)*?sha256 = ).*'  # of this file's table, where it states one
        section = re.sub(whose, rf'\g<1>"{hashlib.sha256(file.read_bytes()).hexdigest()}"', section)
    card = (ROOT / "tokenizers" / "taesd.toml").read_text()
    before, _, rest = card.partition("[weights]")
    after = rest[rest.index("[source]") :]
    path = place.folder / "cards" / "two-files.toml"
    weights = f'[weights]\nhub = "me/two-files"\n\n{section}\n'
    path.write_text(before.replace('name = "taesd"', 'name = "two-files"', 1) + weights + after)
    place.command("run", "-t", "two-files", "--cards", "cards", "--task", "reconstruction")
    assert place.runs()["reconstruction", "two-files"].weights == "published"


def run_training_loops(place: Place, found: list[Block]) -> None:
    for block in found:
        if "loader" in block.text:
            place.python(block, MODELS + LOOP, "assert [row[0] for row in logger.rows] == [0], logger.rows")
        elif "lightning" in block.text:
            place.python(block, MODELS, LIGHTNING)
        elif "accelerator" in block.text:
            place.python(block, MODELS + ACCELERATE, "assert Kept.rows[0][0] == 20000 and Kept.rows[0][1]")
        else:
            place.python(block, MODELS + SHARED + "rank = 0", "assert run is None")
            place.python(block, MODELS + SHARED + "rank = 1", "assert run.scores['lpips'].scored == 29")


def run_report(place: Place, found: list[Block]) -> None:
    place.command("run", "-t", "tiny", "-t", "jpeg-q10", "--task", "reconstruction", "--task", "text")
    run = place.runs()["reconstruction", "tiny-fsq-f8"]
    for step in (1000, 2000):
        said = {"tokenizer": "my-ibq", "label": f"step-{step}", "step": float(step), "weights": "local"}
        own = run.model_copy(update=said)
        write(own, place.folder / "results" / own.task / f"{own.name}.json")
    for block in found:
        place.shell(block)
    assert list((place.folder / "report-pictures").glob("*.webp"))
    for name in ("report.html", "rates.pdf", "legibility.svg", "steps.png"):
        assert (place.folder / name).stat().st_size > 1000, name


def run_plugin(place: Place, found: list[Block]) -> None:
    import shutil

    folder = shutil.copytree(ROOT / "examples" / "plugin", place.folder / "plugin")
    place.shell(Block("examples/plugin/README.md", 0, "sh", "pip install vtbench\npip install ."), folder)
    (block,) = found
    said = place.shell(block)
    assert "mosaic-f2" in said and "mosaic-f8" in said
    assert {("nameplates", "mosaic-f2"), ("nameplates", "jpeg-q5")} <= set(place.runs())


def run_publish(place: Place, found: list[Block]) -> None:
    """With the results of this repository."""
    import shutil

    shutil.copytree(ROOT / "results", place.folder / "results")
    run_as_they_stand(place, found)
    assert len(list((place.folder / "records").rglob("*.json"))) == 1
    assert (place.folder / "model-index.yaml").read_text().startswith("model-index:")


def run_as_they_stand(place: Place, found: list[Block]) -> None:
    for block in found:
        place.shell(block) if block.language == "bash" else place.python(block)


RUN: dict[str, Callable[[Place, list[Block]], None]] = {
    "README.md": run_readme,
    "CONTRIBUTING.md": run_contributing,
    "docs/api.md": run_as_they_stand,
    "docs/many-gpus.md": run_as_they_stand,
    "docs/publish.md": run_publish,
    "docs/report.md": run_report,
    "docs/training-loops.md": run_training_loops,
    "docs/why-numbers-differ.md": run_as_they_stand,
    "examples/plugin/README.md": run_plugin,
    "tasks/README.md": run_tasks,
    "tokenizers/README.md": run_tokenizers,
    "training/README.md": run_as_they_stand,
}


ELSEWHERE = {"docs/add-a-tokenizer.md": "test_tutorial.py"}
"""Documents whose blocks a test of their own runs."""


@pytest.mark.heavy  # six minutes in all: hundreds of commands
@pytest.mark.parametrize("document", [document for document in documents() if document not in ELSEWHERE])
def test_every_block_runs(document: str, tmp_path: Path, wheels: Path, hub: dict[str, str]) -> None:
    found = [block for block in blocks(document) if not any(line in block.text for line in NOT_RUN)]
    if document not in RUN:
        pytest.fail(f"{document} has blocks of code that nothing runs")
    RUN[document](Place(tmp_path, wheels, **hub), found)


def test_what_is_not_run_is_still_there() -> None:
    assert all((ROOT / "tests" / name).is_file() and document in documents() for document, name in ELSEWHERE.items())
    texts = [block.text for document in documents() for block in blocks(document)]
    assert all(any(line in text for text in texts) for line in NOT_RUN)


@pytest.mark.parametrize("document", documents())
def test_every_block_says_its_language(document: str) -> None:
    for block in blocks(document):
        assert block.language in ("bash", "sh", "python", "toml", "json"), block.place
