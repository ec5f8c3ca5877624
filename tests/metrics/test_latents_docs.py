"""docs/latents.md: every function is explained, and its tables are those of benchmarks/latents.py."""

import importlib.util
from pathlib import Path

import pytest
import torch

from vtbench import images
from vtbench.metrics import latents

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docs" / "latents.md").read_text()


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("latents_benchmark", ROOT / "benchmarks" / "latents.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(marker):
    """Give a table of the document: the first column's text to the others'."""
    lines = TEXT.split(f"<!-- {marker}: begin -->")[1].split(f"<!-- {marker}: end -->")[0].strip().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: values for name, *values in (cells[0], *cells[2:])}


@pytest.mark.parametrize("name", latents.__all__)
def test_every_function_is_named(name):
    assert f"`{name}`" in TEXT


def test_the_table_of_noise_is_the_benchmarks(benchmark):
    written = rows("noise")
    assert written.pop("pictures") == [str(count) for count in benchmark.COUNTS]
    assert {name: values[0] for name, values in written.items()} == benchmark.noise_rows(benchmark.COUNTS[0])


def test_the_table_of_changes_has_every_row_and_says_what_the_text_says(benchmark):
    written = rows("changes")
    columns = written.pop("29 pictures")
    assert list(written) == [f"{name}, {change}" for name in benchmark.TOKENIZERS for change in benchmark.changes()]
    for name in benchmark.TOKENIZERS:
        plain, large, moved = (
            dict(zip(columns, map(float, written[f"{name}, {change}"]), strict=True))
            for change in list(benchmark.changes())[:3]
        )
        assert {key for key in columns if plain[key] != large[key]} == {"KL"}
        assert moved["LDS"] < plain["LDS"] / 4 and moved["CDS"] < plain["CDS"] / 4
        assert moved["RMSC"] < plain["RMSC"] / 2
        assert all(moved[key] == plain[key] for key in columns if key.endswith("centred"))


def test_what_is_done_to_the_latents_is_what_its_name_says(benchmark, photographs):
    """The rows of four photographs, by the code that made the table."""
    pictures = images.to_float(photographs)
    with torch.inference_mode():
        z = benchmark.latent_of("tiny-fsq-f8", pictures).double()
    found = {
        name: benchmark.change_cells(pictures, change(z), (7, 1.2)) for name, change in benchmark.changes().items()
    }
    plain = found["as it is"]
    assert found["channels rotated"]["LDS"] == pytest.approx(plain["LDS"], abs=1e-9)
    assert found["two deviations added to each channel"]["LDS, centred"] == pytest.approx(
        plain["LDS, centred"], abs=1e-9
    )
    assert found["white noise of its deviations"]["block, upper half"] == pytest.approx(1, abs=0.2)
    for name in ("white noise of its deviations", "places shuffled"):
        assert abs(found[name]["LDS"]) < 0.1 < plain["LDS"]
        assert found[name]["KL, standardised over all"] > 2 * plain["KL, standardised over all"]
