"""Looks for leaks in what a run chose and in how its network answers: pure functions from its records to verdicts.

The images are judged in `cxr.evaluation.audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from cxr.data.convert import to_float
from cxr.metric.audit_record import Verdict
from cxr.metric.operating_point import choose_point
from cxr.metric.result import tables
from cxr.rules import leaves
from cxr.run.headline import is_of_validation

__all__ = ["TOLERANCE", "answers_alone", "normalisation", "scored_images", "selection", "thresholds"]

Floats = npt.NDArray[np.floating[Any]]
Name = Callable[[str], str]
TOLERANCE = (
    0.01  # of a probability: devices and batch sizes differ by far less, another batch's statistics by more
)
AGAIN = "delete result.json and evaluate the run again"
TESTS = (
    "test/loss",
    "test/accuracy",
    "test/auroc",
    "kid_pixel16/test",
)  # names that a pattern must not match


def scored_images(
    scored: Mapping[str, pd.DataFrame], wanted: Mapping[str, Sequence[str]], name: Name
) -> Verdict:
    """Compare the image ids of the tables of predictions, by part, with those that the split has in that part."""
    question = "the images that were scored"
    n = sum(len(frame) for frame in scored.values())
    for part, frame in scored.items():
        odd = sorted(set(frame["image_id"]) ^ set(wanted[part]))
        if odd:
            return Verdict(question, "LEAK", f"{len(odd):,} images are predicted as {part} and are not in the split's {part}, "
                           "or the other way about", n, name(str(odd[0])), AGAIN)  # fmt: skip
    told = ", ".join(f"{part} {len(frame):,}" for part, frame in scored.items())
    return Verdict(question, "clean", f"exactly those of the split ({told})", n)


def normalisation(cache: Mapping[str, Any]) -> Verdict:
    """Check that a pixel becomes what it becomes whatever the other pixels: cxr scales by fixed numbers."""
    question = "normalisation fitted on test images"
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    fixed = bool(torch.equal(to_float(levels, 1), levels.to(torch.float32) / 127.5 - 1.0))
    alone = torch.stack([to_float(level.reshape(1, 1, 1, 1), 1).squeeze() for level in levels.flatten()])
    if not fixed or not torch.equal(alone, to_float(levels, 1).flatten()):
        return Verdict(question, "LEAK", "pixels are not scaled by v / 127.5 − 1 but by something else", 256,
                       mend="mend cxr/data/convert.py, then train again")  # fmt: skip
    window = f"cache.window={cache.get('window')}"
    return Verdict(question, "clean", f"none is fitted: each of the 256 grey levels v becomes v / 127.5 − 1, alone or among "
                   f"others; cache.fit={cache.get('fit')} and {window} are fixed too", 256)  # fmt: skip


def answers_alone(
    ids: Sequence[str], together: Floats, alone: Floats, recorded: Floats | None, checkpoint: str, name: Name
) -> Verdict:
    """Compare probabilities (n, C) of images in one batch, one by one, and as recorded (None: not evaluated)."""
    question = "statistics fitted where it is tested"
    n = len(ids)
    for other, told, mend in (
        (alone, "get another answer alone than among others: something is fitted on the batch", "put the network into eval mode"),
        (recorded, f"are recorded with another answer than {checkpoint} gives", AGAIN),
    ):  # fmt: skip
        if other is None:
            continue
        off = np.abs(together - other).max(axis=1)
        if not (off <= TOLERANCE).all():
            odd = np.flatnonzero(~(off <= TOLERANCE))
            worst = float(off.max())
            return Verdict(
                question,
                "LEAK",
                f"{len(odd)} of {n} images {told} (by up to {worst:.3f})",
                n,
                name(ids[odd[0]]),
                mend,
            )
    as_recorded = " and as recorded" if recorded is not None else ""
    worst = max(
        float(np.abs(together - other).max(initial=0)) for other in (alone, recorded) if other is not None
    )
    told = f"{n} images get the same answer alone, in a batch{as_recorded} (differences up to {worst:.1g})"
    return Verdict(question, "clean", told, n)


def thresholds(result: Mapping[str, Any], test: pd.DataFrame, validation: pd.DataFrame | None) -> Verdict:
    """Choose the operating points again on the validation predictions and compare them with those of result.json."""
    question = "thresholds chosen on test images"
    points, classes = result["operating_points"], list(result["classes"])
    given = float(result["protocol"]["threshold"])
    by_hand = (
        f"threshold={given:g} was given by hand, and by which images is not recorded"
        if given != 0.5
        else None
    )
    if points and (validation is None or validation.empty):
        return Verdict(
            question,
            "not known",
            f"{len(points)} operating points and no predictions_val.parquet",
            mend=AGAIN,
        )
    n = 0 if validation is None else len(validation)
    for point in points:
        label, rule, at = point["class"], point["rule"], float(result["protocol"]["at_specificity"])
        c = classes.index(label)
        chosen = {}
        for part, frame in (("validation", validation), ("test", test)):
            target, prob, _ = tables(frame, classes)
            chosen[part] = choose_point(target[:, c], prob[:, c], rule, at)
        own, theirs = chosen["validation"], chosen["test"]
        if own is None or abs(own.threshold - point["threshold"]) > 1e-9:
            right = "no threshold" if own is None else f"{own.threshold:.4f}"
            on_test = theirs is not None and abs(theirs.threshold - point["threshold"]) <= 1e-9
            told = f"{label}, {rule}: {point['threshold']:.4f} is recorded, the {n:,} validation images choose {right}"
            return Verdict(
                question,
                "LEAK",
                told + (": it is what the test images would choose" if on_test else ""),
                n,
                mend=AGAIN,
            )
    if by_hand:
        return Verdict(question, "not known", by_hand, n, mend="threshold=0.5, or read the operating points")
    told = (
        f"{len(points)} operating points are what the {n:,} validation images choose"
        if points
        else "there are none"
    )
    return Verdict(question, "clean", f"{told}; the other threshold is 0.5, given beforehand", n)


def selection(config: Mapping[str, Any], log: Collection[str], checkpoint: str | None) -> Verdict:
    """Judge what chose among epochs: every `monitor` of the configuration, and what the training's log holds.

    log: names of the columns of metrics.csv. checkpoint: the file that was tested; None: not evaluated.
    """
    question = "model selection on test images"
    monitors = dict(_monitors(config))
    mend = "monitor a validation score, e.g. callback.checkpoints.monitor=val/auroc, and train again"
    for key, monitor in monitors.items():
        if any(fnmatchcase(test, monitor) for test in (*TESTS, *[c for c in log if "test" in c.split("/")])) \
                or "test" in monitor.split("/"):  # fmt: skip
            return Verdict(
                question, "LEAK", f"{key}={monitor} is a score of test images", len(monitors), mend=mend
            )
    tested = sorted(one for one in log if "test" in one.split("/"))
    if tested:
        told = f"test images were scored while it trained (metrics.csv has {', '.join(tested)})"
        return Verdict(
            question, "LEAK", told, len(monitors), mend="train again by cxr's own task, which does not"
        )
    used = f"{checkpoint} was tested; " if checkpoint else ""
    watched = ", ".join(f"{key}={monitor}" for key, monitor in monitors.items()) or "nothing"
    odd = [key for key, monitor in monitors.items() if not is_of_validation(monitor)]
    known = f"{used}watched: {watched}; a search of cxr takes validation scores only"
    if odd:
        return Verdict(question, "clean", f"{known}; no validation score: {', '.join(odd)}", len(monitors))
    return Verdict(question, "clean", known, len(monitors))


def _monitors(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for path, value in leaves(dict(config)):
        if path.rpartition(".")[2] == "monitor" and isinstance(value, str):
            yield path, value
    scheduler = config.get("scheduler") or {}
    if str(scheduler.get("_target_", "")).endswith("ReduceLROnPlateau"):
        yield "scheduler", "val/loss"  # ClassifierTask gives it that, and nothing else
