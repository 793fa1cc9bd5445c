"""Leaks planted at every boundary: the guard that refuses them, and the audit where somebody went round it."""

from __future__ import annotations

import importlib
import re
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.data.synthetic import load_synthetic, write_synthetic
from cxr.errors import UserError
from cxr.files import read_json, write_json

planted = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("planted.py"))))
audit, leaks, train, evaluate = planted.audit, planted.leaks, planted.train, planted.evaluate
composed, edit_config, generate = planted.composed, planted.edit_config, planted.generate
FOUND: dict[
    str, tuple[str, str, str]
] = {}  # what was planted → the guard's line, the question, the audit's line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on one small data set: an honest classifier with GAN images, and GANs of this split and of another."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        planted.write_images(folder)
        train("gan", *planted.GAN)
        generate("gan", 12)
        train("honest", "mix=add", "mix.counts={normal:8}", "synthetic=[gan]")
        evaluate("honest")
        train("foreign-gan", *planted.GAN, "split=patient", "split.seed=5", "split.test=0.3")
        generate("foreign-gan", 12)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those runs, in a folder of their own."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def caught(what: str, name: str, question: str, guard: str = "none: no training sees it") -> str:
    """Audit a run; exactly one question must be answered by LEAK. Returns its line."""
    found = leaks(audit(name))
    assert list(found) == [question], [one.line for one in found.values()]
    line = str(found[question].line)
    FOUND[what] = (guard, question, line)
    return line


def refused(*arguments: str, match: str) -> str:
    """Train; a guard must refuse it in one line that holds `match`."""
    with pytest.raises(UserError, match=match) as error:
        train("refused", *arguments)
    return str(error.value)


def test_an_honest_run_is_clean(here: Path) -> None:
    found = audit("honest")
    assert {one.answer for one in found.values()} == {"clean"}, [one.line for one in found.values()]
    assert len(found) == 14
    assert found["held-out images behind GAN gan of gan"].n == 24
    assert not leaks(audit("gan"))
    record = read_json(Path("runs/honest/audit.json"))
    assert (record["leaks"], len(record["verdicts"])) == (0, 14)


def test_patient_file_and_near_duplicate_across_parts(here: Path) -> None:
    """Three leaks in a table with a split of its own: each is found, and told apart."""
    table, offending = planted.planted_table(pd.read_csv("images.csv"), here)
    table.to_csv("images.csv", index=False)
    refusal = refused(match="1 files .* 1 patients .* are in more than one part|files.*patients")
    likeness = refused(
        "split.on_overlap=report", "near_duplicates=refuse", match="leak: .* near-duplicate pairs? li"
    )
    train("leaky", "split.on_overlap=report")
    evaluate("leaky")
    found = leaks(audit("leaky"))
    for what, question, guard in (
        ("a patient in training and test", "a patient in two parts", refusal),
        ("a test image in training, under another name", "a file in two parts", refusal),
        (
            "a test image in training, as JPEG of quality 85",
            "a near-duplicate in two parts",
            likeness,
        ),
    ):
        FOUND[what] = (guard, question, found[question].line)
    assert found["a patient in two parts"].told.startswith("1 of ")
    assert found["a file in two parts"].told.startswith("1 by SHA-256")
    assert "pairs are one radiograph" in found["a near-duplicate in two parts"].told
    shown = " ".join(one.line for one in found.values())
    assert not any(name in shown for name in (*offending.values(), "images/"))


def test_a_gan_of_test_images(here: Path) -> None:
    refusal = refused(
        "mix=add", "mix.counts={normal:8}", "synthetic=[foreign-gan]", match="leak: .* trained the GAN"
    )
    train("leaky", "mix=add", "mix.counts={normal:8}", "synthetic=[foreign-gan]", "leakage=allow")
    evaluate("leaky")
    line = caught(
        "a GAN trained on test images",
        "leaky",
        "held-out images behind GAN foreign-gan of foreign-gan",
        refusal,
    )
    assert "held-out images are among the" in line


def test_a_set_whose_record_leaves_the_test_images_out(here: Path) -> None:
    """Sealed anew, so no guard sees it; but the GAN's run is still there, and its data say otherwise."""
    one = load_synthetic(Path("synthetic/foreign-gan"))
    images, index = np.array(one.images), one.index.copy()
    own = read_json(Path("runs/honest/manifest.json"))["trained_on"]
    manifest = {**one.manifest, "trained_on": sorted(set(one.manifest["trained_on"]) & set(own))}
    write_synthetic(one.path, images, index, manifest, None)
    train("leaky", "mix=add", "mix.counts={normal:8}", "synthetic=[foreign-gan]")
    line = caught(
        "a GAN trained on test images, its set's manifest rewritten",
        "leaky",
        "held-out images behind GAN foreign-gan of foreign-gan",
    )
    assert "leaves out" in line


def test_a_set_that_holds_test_images(here: Path) -> None:
    from cxr.script.prepare import prepare

    prepared = prepare(planted.plain(composed("train", *planted.TABLE, "split=official")))
    one = load_synthetic(Path("synthetic/gan"))
    images, index, manifest = np.array(one.images), one.index.copy(), dict(one.manifest)
    images[3] = prepared.cached.images[prepared.split.parts["test"][0]]
    write_synthetic(one.path, images, index, manifest, None)
    train("leaky", "mix=add", "mix.counts={normal:8}", "synthetic=[gan]")
    caught("a test image in a synthetic set's pixels", "leaky", "copies of held-out images in gan")


def test_a_judge_of_test_images(here: Path) -> None:
    """A set of an honest GAN, of which a classifier of another split kept the best."""
    train("judge", "split=patient", "split.seed=5", "split.test=0.3")
    job = importlib.import_module("cxr.script.curate").job
    asked = [
        "synthetic=gan",
        "filter=agreement",
        "filter.run=judge",
        "filter.at_least=0.0",
        "filter.keep=4",
        "name=sifted",
    ]
    with pytest.raises(UserError, match=r"leak: .* trained the GAN or the judge"):
        job(composed("curate", *asked, "accelerator=cpu"))
    job(composed("curate", *asked, "accelerator=cpu", "leakage=allow"))
    mixed = ["mix=add", "mix.counts={normal:1}", "synthetic=[sifted]"]
    refusal = refused(*mixed, match="leak: .* trained the GAN or the judge")
    train("leaky", *mixed, "leakage=allow")
    found = leaks(audit("leaky"))
    question = "held-out images behind judge judge of sifted"
    assert question in found
    FOUND["a judge that was trained on test images"] = (refusal, question, found[question].line)


def test_a_test_image_that_was_trained_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training whose rows were changed after the split, as a patched mix would."""
    from cxr.script import fit as module
    from cxr.script.prepare import prepare

    def with_test(config: Any) -> Any:
        found = prepare(config)
        return replace(
            found,
            rows={**found.rows, "train": np.append(found.rows["train"], found.rows["test"][0])},
            mixture=None,
        )

    with monkeypatch.context() as patch:
        patch.setattr(module, "prepare", with_test)
        train("leaky")
    caught("a test image that a patched mix repeated in training", "leaky", "held-out images in training")


def test_augmentation_of_test_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr.data.module import CXRDataModule

    evaluation = CXRDataModule._evaluation

    def flipped(self: Any, part: str) -> Any:
        loader = evaluation(self, part)
        loader.dataset.augment = lambda pixels, rng: (
            pixels[..., ::-1].copy() if rng.random() < 0.5 else pixels
        )
        return loader

    monkeypatch.setattr(CXRDataModule, "_evaluation", flipped)
    question = "augmentation where it is tested"
    found = leaks(audit("honest"))
    assert question in found
    FOUND["half of the test images flipped by a patched loader"] = (
        "none: no training sees it",
        question,
        found[question].line,
    )


def test_statistics_of_the_test_batch(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cxr.script.predict as module

    load = module.load_task

    def fitted_on_the_batch(config: Any, checkpoint: Path) -> Any:
        task = load(config, checkpoint)
        network = task.network.forward
        task.network.forward = lambda images: (
            5 * (network(images) - network(images).mean(dim=0)) + network(images)
        )
        return task

    monkeypatch.setattr(module, "load_task", fitted_on_the_batch)
    caught(
        "answers centred on their test batch, by a patched network",
        "honest",
        "statistics fitted where it is tested",
    )


def test_predictions_that_the_checkpoint_does_not_give(here: Path) -> None:
    path = Path("runs/honest/predictions.parquet")
    frame = pd.read_parquet(path)
    for name in planted.CLASSES:
        frame[f"prob:{name}"] = frame[f"target:{name}"].astype("float32")
    frame.to_parquet(path, index=False)
    caught("test predictions edited to the truth", "honest", "statistics fitted where it is tested")


@pytest.mark.parametrize("to", ["anything", "test"])
def test_a_threshold_that_validation_did_not_choose(here: Path, to: str) -> None:
    from cxr.metric.operating_point import choose_point
    from cxr.metric.result import read_predictions, tables

    path = Path("runs/honest/result.json")
    result = read_json(path)
    point = result["operating_points"][0]
    point["threshold"] = 0.123
    if to == "test":
        target, prob, _ = tables(read_predictions(path.parent, list(planted.CLASSES)), planted.CLASSES)
        at = result["protocol"]["at_specificity"]
        chosen = choose_point(target[:, 1], prob[:, 1], point["rule"], at)
        assert chosen is not None
        point["threshold"] = chosen.threshold
    write_json(path, result)
    line = caught(f"a threshold in result.json edited to {to}", "honest", "thresholds chosen on test images")
    assert ("it is what the test images would choose" in line) == (to == "test")


def test_thresholds_chosen_on_other_images(here: Path) -> None:
    run = Path("runs/honest")
    shutil.copy(run / "predictions.parquet", run / "predictions_val.parquet")
    found = leaks(audit("honest"))
    assert "the images that were scored" in found
    FOUND["test predictions put in the place of validation's"] = (
        "none: no training sees it", "the images that were scored", found["the images that were scored"].line)  # fmt: skip


def test_model_selection_on_test_images(here: Path) -> None:
    with pytest.raises(
        UserError, match=r"callback.checkpoints.monitor: got 'test/auroc', expected a score of valid"
    ) as error:
        composed("train", *planted.TABLE, "split=official", "callback.checkpoints.monitor=test/auroc")

    def by_test(values: dict[str, Any]) -> None:
        values["callback"]["checkpoints"]["monitor"] = "test/auroc"

    edit_config("honest", by_test)
    caught("best.ckpt chosen by test/auroc", "honest", "model selection on test images", str(error.value))


def test_test_scores_in_the_log(here: Path) -> None:
    path = Path("runs/honest/metrics.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0] + ",test/accuracy", *(line + ",0.9" for line in lines[1:])]) + "\n")
    caught("test images scored in every epoch, by a patched task", "honest", "model selection on test images")


def test_a_split_that_was_edited(here: Path) -> None:
    def other(values: dict[str, Any]) -> None:
        values["split"] = {
            "_target_": "cxr.data.split.patient",
            "_partial_": True,
            "val": 0.1,
            "test": 0.3,
            "seed": 9,
        }

    edit_config("honest", other)
    with pytest.raises(UserError, match="its test images are not those of training") as error:
        evaluate("honest", n_resamples=21)
    found = leaks(audit("honest"))
    assert {
        "the split that was recorded",
        "held-out images in training",
        "the images that were scored",
    } <= set(found)
    question = "the split that was recorded"
    FOUND["config.yaml's split edited after training"] = (str(error.value), question, found[question].line)


def test_other_images_and_sets_end_the_audit(here: Path) -> None:
    shutil.copy("images/001.png", "images/000.png")
    with pytest.raises(UserError, match="its images are not those of training"):
        audit("honest")
    shutil.rmtree("synthetic/gan")
    with pytest.raises(UserError, match="no synthetic set at"):
        audit("honest")


def test_what_cannot_be_known_is_said(here: Path) -> None:
    """No GAN run, no patients, a threshold given by hand, no evaluation."""
    shutil.rmtree("runs/gan")
    evaluate("honest", threshold=0.4)
    found = audit("honest")
    assert found["held-out images behind GAN gan of gan"].answer == "not known"
    assert "no run gan is here" in found["held-out images behind GAN gan of gan"].told
    assert found["thresholds chosen on test images"].answer == "not known"
    train("nobody", "data.patient_column=null")
    found = audit("nobody")
    assert not leaks(found)
    assert found["a patient in two parts"].answer == "not known"
    assert found["thresholds chosen on test images"].told == "the run was not evaluated"


@pytest.fixture(scope="module", autouse=True)
def page(written: Callable[[str], Any]) -> Iterator[None]:
    """After all of them: docs/reliability.md says what was caught, by whom and in which words."""
    yield
    if len(FOUND) == 17:  # all of this file were run
        written("leaks").agree(table_of(FOUND))


def table_of(found: dict[str, tuple[str, str, str]]) -> str:
    """Return the page's table; hashes and share-safe names, which differ from machine to machine, become …"""

    varies = (
        r"id-[0-9a-f]{12}", r"\b[0-9a-f]{12,64}\b", r"[01]\.\d+ (?=alike|of 1)", r"(?<=up to )[0-9.]+",
        r"0\.\d{4}(?= is recorded)", r"(?<=choose )0\.\d{4}", r"\d+(?= of \d+ images (get|are recorded))",
    )  # fmt: skip

    def cell(text: str) -> str:
        for pattern in varies:
            text = re.sub(pattern, "… " if pattern.endswith("of 1)") else "…", text)
        return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")

    rows = [f"| {what} | {cell(guard)} | {cell(line)} |" for what, (guard, _, line) in sorted(found.items())]
    head = ["| Planted | The guard when training | The audit |", "|---|---|---|"]
    return "\n".join([*head, *rows])
