"""Writes croissant.json beside the index of each embedded set: what its files are, whose, and under which licence.

The format is Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html), a vocabulary over
schema.org. A test reads the files with mlcroissant and holds them against what this program would write.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vtbench.data.sample import FOLDER, SIZES, Index

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def folder_of(size: int) -> Path:
    """Find the folder of a set."""
    return FOLDER if size == SIZES[0] else FOLDER / str(size)


def described(size: int) -> dict[str, Any]:
    """Describe one set: the licence and author of each file beside its sha256."""
    folder = folder_of(size)
    index = Index.model_validate_json((folder / "index.json").read_bytes())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"vtbench-sample-{size}",
        "description": f"{len(index.pictures)} pictures of {size}x{size} pixels that ship with vtbench.",
        "url": "https://github.com/vtbench/vtbench",
        "version": "0.1.0",
        "license": sorted({one.license_url for one in index.pictures}),
        "creator": [{"@type": "sc:Organization", "name": "The vtbench authors"}],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": one.file,
                "name": one.file,
                "description": f"{one.title}. {one.change}. Source: {one.source}",
                "contentUrl": one.file,
                "encodingFormat": "image/webp",
                "sha256": hashlib.sha256((folder / one.file).read_bytes()).hexdigest(),
                "creator": {"@type": "sc:Person", "name": one.author},
                "license": one.license_url,
            }
            for one in index.pictures
        ],
    }


def text_of(size: int) -> str:
    """Give the content of the file."""
    return json.dumps(described(size), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for size in SIZES:
        (folder_of(size) / "croissant.json").write_text(text_of(size))
