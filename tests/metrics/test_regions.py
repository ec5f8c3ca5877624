from __future__ import annotations

import numpy as np
import pytest

from vtbench.data import sample
from vtbench.errors import DataError
from vtbench.metrics.regions import coverage, even_regions, homogeneity
from vtbench.metrics.segments import SCALE, SIGMA, SMALLEST, segment


def halves(height: int, width: int) -> np.ndarray:
    return np.repeat((np.arange(width) >= width // 2).astype(np.int64)[None], height, 0)


def test_regions_that_are_the_segments_score_one() -> None:
    labels = halves(8, 8)
    assert homogeneity(labels, labels) == coverage(labels, labels) == 1.0
    assert homogeneity(labels + 7, 1 - labels) == coverage(labels + 7, 1 - labels) == 1.0  # whatever their numbers


def test_finer_regions_keep_to_one_thing_but_cover_none() -> None:
    segments = halves(8, 8)
    quarters = even_regions(4, 8, 8)
    assert homogeneity(quarters, segments) == 1.0
    assert coverage(quarters, segments) == 0.5  # each half is covered by one of the two quarters that it has
    assert homogeneity(segments, quarters) == 0.5
    assert coverage(segments, quarters) == 0.5


def test_a_region_counts_by_its_pixels() -> None:
    segments = np.zeros((4, 10), dtype=np.int64)
    segments[:, 7:] = 1
    regions = np.zeros_like(segments)
    regions[:, 9:] = 1
    # 28 of the 36 pixels of the first region lie in segment 0, and all 4 of the second in segment 1.
    assert homogeneity(regions, segments) == pytest.approx((28 + 4) / 40)
    # Segment 0: 28 of 36 shared with region 0; segment 1: 8 of 40 with region 0, 4 of 12 with region 1.
    assert coverage(regions, segments) == pytest.approx((28 * 28 / 36 + 12 * 4 / 12) / 40)


def test_one_region_for_all_is_as_good_as_the_largest_segment() -> None:
    segments = np.zeros((10, 10), dtype=np.int64)
    segments[:3] = 1
    assert homogeneity(np.zeros_like(segments), segments) == 0.7
    assert coverage(np.zeros_like(segments), segments) == pytest.approx(0.7 * 0.7 + 0.3 * 0.3)


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (6, 2), (7, 3), (8, 3), (196, 14), (256, 16)])
def test_an_even_grid_has_as_many_cells_as_asked_for(count: int, rows: int) -> None:
    cells = even_regions(count, 224, 224)
    assert np.array_equal(np.unique(cells), np.arange(count))
    assert len({tuple(row) for row in cells}) == rows
    sizes = np.bincount(cells.ravel())
    assert sizes.max() <= 2.1 * sizes.min()


def test_an_even_grid_of_square_numbers_is_the_grid_of_a_tokenizer() -> None:
    expected = np.arange(196).reshape(14, 14).repeat(16, 0).repeat(16, 1)
    assert np.array_equal(even_regions(196, 224, 224), expected)
    assert np.array_equal(even_regions(4, 4, 1)[:, 0], np.arange(4))  # as thin as a pixel


def test_what_is_no_pair_of_maps_is_refused() -> None:
    with pytest.raises(DataError, match="two maps"):
        homogeneity(np.zeros((2, 3), dtype=np.int64), np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(DataError, match="expected 1 to 4"):
        even_regions(5, 2, 2)
    with pytest.raises(DataError, match="expected uint8"):
        segment(np.zeros((4, 4), dtype=np.uint8))


def test_flat_fields_are_the_segments() -> None:
    picture = np.zeros((64, 96, 3), dtype=np.uint8)
    picture[:, 32:64] = (200, 30, 30)
    picture[:20, 64:] = (20, 20, 220)
    found = segment(picture)
    expected = np.zeros((64, 96), dtype=np.int64)
    expected[:, 32:64], expected[:20, 64:], expected[20:, 64:] = 1, 2, 3
    # The filter blurs borders, whose columns become segments of their own.
    assert homogeneity(found, expected) > 0.98
    assert coverage(found, expected) > 0.85
    for rows, columns in ((slice(64), slice(28)), (slice(64), slice(36, 60)), (slice(16), slice(68, 96))):
        assert len(np.unique(found[rows, columns])) == 1
    assert found[0, 0] == 0


def test_small_segments_are_joined_to_a_neighbour() -> None:
    picture = np.zeros((256, 256, 3), dtype=np.uint8)
    picture[40:42, 40:42] = 255
    assert segment(picture).max() == 0


def test_segments_equal_scikit_images() -> None:
    """An independent implementation of the same paper finds the same segments, pixel by pixel."""
    from skimage.segmentation import felzenszwalb

    source = sample.Source(size=224)
    for index in (0, 7, 24):
        picture = source.read(index).image.permute(1, 2, 0).numpy()
        least = int(np.ceil(SMALLEST * picture.shape[0] * picture.shape[1]))
        expected = felzenszwalb(picture, scale=SCALE, sigma=SIGMA, min_size=least)
        assert np.array_equal(segment(picture), expected), source.sample_id(index)
