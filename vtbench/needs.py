"""What metrics need on this machine: networks of their own, the task's OCR engine, the task's foundation model.

Importing this module loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable

from vtbench import backbones, ocr
from vtbench.backbones import foundation
from vtbench.cards import TaskCard
from vtbench.catalogue import FOUNDATION, OCR, find_metric


def lacking(metric: str, card: TaskCard) -> str | None:
    """Say what a metric of a task lacks and the command that mends it; None where it can be scored.

    Raises:
        CardError: if there is no such metric.
        DataError: if there is no such engine.
        WeightsError: if a file of the name that is looked for is another file.
    """
    for need in find_metric(metric).needs:
        if need == OCR:
            reason = ocr.missing(card.ocr) if ocr.find(card.ocr) is None else None
        elif need == FOUNDATION:
            reason = foundation.lacking(card.foundation)
        else:
            reason = backbones.missing(need) if backbones.find(need) is None else None
        if reason:
            return reason
    return None


def files_behind(metrics: Iterable[str], card: TaskCard) -> dict[str, str]:
    """Say what metrics of a task that lack nothing are computed with: need/file to sha256, engine/version to that."""
    found: dict[str, str] = {}
    for need in sorted({need for name in metrics for need in find_metric(name).needs}):
        if need == OCR:
            name, behind = card.ocr, {**ocr.digests(card.ocr), "version": ocr.version(card.ocr)}
        elif need == FOUNDATION:
            name, behind = need, foundation.digests(card.foundation)  # where it lies is no matter
        else:
            name, behind = need, backbones.digests(need)
        found |= {f"{name}/{file}": value for file, value in behind.items()}
    return found
