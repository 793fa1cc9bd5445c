"""Verdicts from facts, by hand: what each question answers where the answer is known."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data.convert import to_float
from cxr.data.near import fingerprints
from cxr.data.phantom import Phantom
from cxr.errors import UserError
from cxr.evaluation import audit, audit_model
from cxr.files import read_json, write_json
from cxr.metric.audit_record import Verdict, read_audit, tally, write_audit

INDEX = pd.DataFrame(
    {
        "image_id": ["a", "b", "c", "d", "e", "f"],
        "patient_id": ["p", "p", "q", "r", None, None],
        "content_hash": ["1", "2", "3", "1", "5", "6"],
    }
)


def parts(train: list[int], val: list[int], test: list[int]) -> dict[str, np.ndarray]:
    return {"train": np.array(train), "val": np.array(val, int), "test": np.array(test)}


def name(own: str) -> str:
    return f"<{own}>"


def test_patients() -> None:
    found = audit.patients(INDEX, parts([0], [1], [2, 3]), name)
    assert (found.answer, found.n, found.first) == ("LEAK", 3, "<p> (train, val)")
    clean = audit.patients(INDEX, parts([0, 1], [2], [3, 4]), name)
    assert (clean.answer, clean.n, clean.first) == ("clean", 3, None)
    assert "1 of 5 images have no patient id" in clean.told
    assert audit.patients(INDEX, parts([4], [], [5]), name).answer == "not known"


def test_files() -> None:
    found = audit.files(INDEX, parts([0, 1], [2], [3]), name)
    assert (found.answer, found.n, found.first) == ("LEAK", 4, "<a> (train) and <d> (test)")
    assert found.told.startswith("1 by SHA-256")
    assert audit.files(INDEX, parts([0, 3], [2], [1]), name).answer == "clean"


def test_near_duplicates_other_than_identical_files() -> None:
    """Of forty phantoms the 38th, a test image, is the third, a training image, as a brighter JPEG."""
    source = Phantom(40, 1, ["normal", "opacity"], 0.3, 96, 0, False)
    images = np.stack([source.read(str(path)) for path in source.index()["path"]])
    again = cv2.imencode(".jpg", images[2], [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    copy = np.asarray(cv2.imdecode(again, cv2.IMREAD_GRAYSCALE))
    images[37] = np.clip(copy.astype(np.int16) + 8, 0, 255)
    prints = fingerprints(images)
    index = pd.DataFrame(
        {"image_id": [f"i{n}" for n in range(40)], "content_hash": [f"h{n}" for n in range(40)]}
    )
    apart = {"train": np.arange(30), "val": np.arange(30, 34), "test": np.arange(34, 40)}
    found = audit.near(index, prints, apart, name)
    assert found.answer == "LEAK" and found.n == 30 * 4 + 30 * 6 + 4 * 6
    assert found.told.startswith("1 of 324 pairs")
    assert (found.first or "").startswith("<i2> (train) and <i37> (test)")
    identical = index.assign(content_hash=index["content_hash"].replace("h37", "h2"))
    assert audit.near(identical, prints, apart, name).answer == "clean"  # another question's
    together = {**apart, "train": np.append(apart["train"], 37), "test": np.setdiff1d(apart["test"], 37)}
    assert audit.near(index, prints, together, name).answer == "clean"
    held_out, theirs = np.arange(30, 40), prints.take(apart["train"])
    for hashes, answer, n in (({"x"}, "LEAK", 300), ({"h37"}, "clean", 270), ((), "LEAK", 300)):
        one = audit.near_learnt(
            "q", index, held_out, prints, theirs, hashes, name, who="trained it", mend="m"
        )
        assert (one.answer, one.n) == (answer, n)
    small = audit.near_learnt("q", index, held_out, None, theirs, (), name, who="trained it", mend="m")
    assert small.answer == audit.near(index, None, apart, name).answer == "not known"


def test_held_out_images_that_somebody_learnt_from() -> None:
    found = audit.held_out_learnt("q", INDEX, np.array([1, 3]), {"1", "9"}, name, who="trained it", mend="m")
    assert (found.answer, found.n, found.first) == ("LEAK", 2, "<d>")
    assert found.told == "1 of 2 held-out images are among the 2 that trained it"
    clean = audit.held_out_learnt("q", INDEX, np.array([1]), {"1", "9"}, name, who="trained it", mend="m")
    assert clean.answer == "clean"


def test_answers_alone_together_and_recorded() -> None:
    together = np.array([[0.2, 0.8], [0.6, 0.4]])

    def ask(alone: np.ndarray, recorded: np.ndarray) -> Verdict:
        return audit_model.answers_alone(["a", "b"], together, alone, recorded, "last.ckpt", name)

    assert ask(together + 1e-4, together - 1e-4).answer == "clean"
    assert ask(together + np.array([[0, 0], [0.02, -0.02]]), together).first == "<b>"
    assert "are recorded with another answer" in ask(together, together + 0.02).told
    assert ask(together, np.full((2, 2), np.nan)).answer == "LEAK"


def frame(positive: list[float], negative: list[float]) -> pd.DataFrame:
    prob = np.array([*positive, *negative])
    target = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return pd.DataFrame({"image_id": [f"i{i}" for i in range(len(prob))], "patient_id": None,
                         "target:n": 1 - target, "target:y": target, "prob:n": 1 - prob, "prob:y": prob})  # fmt: skip


def test_thresholds() -> None:
    """Youden's point of y: on validation halfway between 0.6 and 0.4, on test between 0.9 and 0.7."""
    validation, test = frame([0.8, 0.6], [0.4, 0.1]), frame([0.95, 0.9], [0.7, 0.2])
    point = {"class": "y", "rule": "youden", "threshold": 0.5}
    result = {
        "operating_points": [point],
        "classes": ["n", "y"],
        "protocol": {"threshold": 0.5, "at_specificity": 0.9},
    }
    assert audit_model.thresholds(result, test, validation).answer == "clean"
    point["threshold"] = 0.8
    found = audit_model.thresholds(result, test, validation)
    assert found.answer == "LEAK" and found.told.endswith(
        "choose 0.5000: it is what the test images would choose"
    )
    point["threshold"] = 0.7
    assert "would choose" not in audit_model.thresholds(result, test, validation).told
    assert audit_model.thresholds(result, test, None).answer == "not known"
    point["threshold"], result["protocol"] = 0.5, {"threshold": 0.3, "at_specificity": 0.9}
    assert audit_model.thresholds(result, test, validation).answer == "not known"


@pytest.mark.parametrize(
    ("monitor", "log", "answer"),
    [("val/auroc", ["val/auroc"], "clean"), ("kid_*/val", [], "clean"), ("train/loss", [], "clean"),
     ("test/auroc", [], "LEAK"), ("*/auroc", [], "LEAK"), ("kid_x/test", [], "LEAK"), ("val/auroc", ["test/loss"], "LEAK")],
)  # fmt: skip
def test_selection(monitor: str, log: list[str], answer: str) -> None:
    config = {"callback": {"checkpoints": {"monitor": monitor}}}
    assert audit_model.selection(config, log, "checkpoints/best.ckpt").answer == answer


def test_normalisation_is_by_fixed_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit_model.normalisation({"fit": "pad", "window": None}).answer == "clean"

    def by_batch(images, channels):  # type: ignore[no-untyped-def]
        found = to_float(images, channels)
        return found - found.mean()

    monkeypatch.setattr(audit_model, "to_float", by_batch)
    assert audit_model.normalisation({"fit": "pad", "window": None}).answer == "LEAK"


def test_a_record_holds_for_one_result(tmp_path: Path) -> None:
    verdicts = [
        Verdict("q", "clean", "none"),
        Verdict("r", "LEAK", "one", 3, "id-1", "do it"),
        Verdict("s", "not known", "gone"),
    ]
    assert read_audit(tmp_path) is None
    write_json(tmp_path / "result.json", {"a": 1})
    path = write_audit(tmp_path, verdicts, {})
    assert read_audit(tmp_path) == tuple(verdicts)
    assert tally(verdicts) == "1 clean, 1 LEAK, 1 not known"
    assert verdicts[1].line == "LEAK       r: one; first: id-1; do: do it"
    write_json(tmp_path / "result.json", {"a": 2})
    assert read_audit(tmp_path) is None
    record = read_json(path)
    record["verdicts"][0]["answer"] = "fine"
    write_json(path, record)
    with pytest.raises(UserError, match=re.escape("none of clean, LEAK, not known")):
        read_audit(tmp_path)
