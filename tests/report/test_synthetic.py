"""Synthetic sets on the page: samples over training of the run that made the set; reliability and saved figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from cxr.files import write_json, write_text
from cxr.metric.calibration import reliability_curve
from cxr.metric.resample import draw_patients
from cxr.report.provenance import run_entry
from cxr.report.reliability import arms_reliability, labels_reliability, pooled_reliability
from cxr.report.runs import group_runs, load_run
from cxr.report.save import file_name, save_figure
from cxr.report.synthetic import synthetic_entry, synthetic_sets

SIZE = 16


def make_set(root: Path, *, epochs: int, recorded: str) -> Path:
    """Leave runs/gan with one grid per epoch, brighter each epoch, and synthetic/made by its checkpoint."""
    figures = root / "runs" / "gan" / "figures"
    figures.mkdir(parents=True)
    for epoch in range(1, epochs + 1):
        grid = np.full((4 * (SIZE + 2) - 2, 8 * (SIZE + 2) - 2), 10 * epoch, np.uint8)
        cv2.imwrite(str(figures / f"samples-epoch-{epoch:04d}.png"), grid)
    write_text(root / "runs" / "gan" / "config.yaml", "gan:\n  latent_dim: 100\n")
    write_json(root / "runs" / "gan" / "status.json", {"state": "finished", "name": "gan"})
    made = root / "synthetic" / "made"
    made.mkdir(parents=True)
    cv2.imwrite(str(made / "grid.png"), np.zeros((1000, 2000), np.uint8))
    checkpoint = {"path": recorded, "sha256": "cd" * 32, "g_steps": 679}
    facts = {"kind": "synthetic", "n": 50, "classes": ["A"], "size_px": SIZE, "seed": 0}
    write_json(made / "manifest.json", {**facts, "checkpoints": [checkpoint]})
    return made


@pytest.mark.parametrize(
    ("epochs", "shown"), [(1, [1]), (3, [1, 2, 3]), (6, [1, 2, 3, 4, 5, 6]), (11, [1, 3, 5, 7, 9, 11])]
)
def test_samples_over_training(epochs: int, shown: list[int], tmp_path: Path) -> None:
    # the recorded path is that of another folder: the project was moved as a whole
    made = make_set(tmp_path, epochs=epochs, recorded="elsewhere/runs/gan/checkpoints/last.ckpt")
    text = synthetic_entry(synthetic_sets([made])[0], tmp_path / "out")
    assert [int(n) for n in re.findall(r'class="small">epoch (\d+)<', text)] == shown
    for epoch in shown:
        image = cv2.imread(
            str(tmp_path / "out" / "figures" / f"gan-epoch-{epoch:04d}.png"), cv2.IMREAD_GRAYSCALE
        )
        assert (
            image is not None and image.shape == (2 * SIZE + 2, 2 * SIZE + 2) and (image == 10 * epoch).all()
        )
    assert "Configuration of the GAN gan" in text and "latent_dim: 100" in text
    grid = cv2.imread(str(tmp_path / "out" / "figures" / "samples-made.png"), cv2.IMREAD_GRAYSCALE)
    assert grid is not None and grid.shape == (650, 1300)  # a large grid is shrunk for the page


@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_a_gan_that_was_stopped_is_named(state: str, tmp_path: Path) -> None:
    made = make_set(tmp_path, epochs=1, recorded="runs/gan/checkpoints/last.ckpt")
    write_json(tmp_path / "runs" / "gan" / "status.json", {"state": state, "name": "gan"})
    text = synthetic_entry(synthetic_sets([made])[0], tmp_path / "out")
    assert ("never reached its end: 679 steps of G" in text) == (state != "finished")


@pytest.mark.parametrize("recorded", ["{}/private/checkpoints/x", "runs/../private/checkpoints/x"])
def test_a_manifest_cannot_bring_a_foreign_folder_into_the_report(recorded: str, tmp_path: Path) -> None:
    made = make_set(tmp_path, epochs=1, recorded=recorded.format(tmp_path))
    (tmp_path / "runs" / "gan").rename(tmp_path / "private")  # its status is of another name
    write_text(tmp_path / "private" / "config.yaml", "password: letmein\n")
    assert "letmein" not in synthetic_entry(synthetic_sets([made])[0], tmp_path / "out")


def test_a_set_whose_gan_is_not_at_hand(tmp_path: Path) -> None:
    made = make_set(tmp_path, epochs=3, recorded="elsewhere/runs/another/checkpoints/last.ckpt")
    text = synthetic_entry(synthetic_sets([made])[0], tmp_path / "out")
    assert "epoch" not in text and "50 images of A" in text


def test_a_run_shows_its_configuration_and_libraries(make_run: Callable[..., Path], tmp_path: Path) -> None:
    path = make_run(tmp_path, "a")
    write_text(path / "config.yaml", "model: <b>\n")
    manifest = {"device": "cpu", "versions": {"torch": "2.13.0", "timm": "1.0.31"}, "inputs": {"cache": "ab"}}
    write_json(path / "manifest.json", manifest)
    text = run_entry(load_run(path))
    assert "model: &lt;b&gt;" in text and text.count("<details>") == 2
    assert "timm 1.0.31" in text and "cache: ab" in text


def test_reliability_of_an_arm_pools_its_runs(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path, f"r{seed}", seed=seed)) for seed in range(2)]
    [one], [both] = group_runs(runs[:1]), group_runs(runs)
    drawn = draw_patients(runs[0].patients, n_resamples=100, seed=0)
    alone, pooled = pooled_reliability(one, None), pooled_reliability(both, None)
    expected = reliability_curve(runs[0].target, runs[0].prob, None, drawn)
    assert np.array_equal(alone.frequency, expected.frequency)
    assert np.array_equal(alone.low, expected.low, equal_nan=True)
    assert (alone.n.sum(), pooled.n.sum()) == (120, 240)
    assert pooled.n_patients.max() <= 40  # a patient stays one, however many seeds answer for it
    assert arms_reliability([both]) is not None and labels_reliability(both) is None


def test_a_figure_is_left_as_both(tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 1), layout="constrained")
    figure.subplots().set_title("$ not math")
    svg = save_figure(tmp_path, "a/b c", figure)
    assert svg is not None and svg == (tmp_path / "figures" / "a-b-c.svg").read_bytes()
    png = cv2.imread(str(tmp_path / "figures" / "a-b-c.png"))
    assert png is not None and png.shape[1] == 2 * 20  # 2 inches at the tests' resolution
    assert save_figure(tmp_path, "none", None) is None
    names = {file_name("long " * 60 + end) for end in "ab"}
    assert len(names) == 2 and all(len(name) < 130 for name in names)
