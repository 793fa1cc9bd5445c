"""The whole chain as a user types it, in fresh processes: on phantoms, and on a slice of real radiographs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

TINY_GAN = [
    "gan.generator.widths=[16,16,16,8]",
    "gan.discriminator.widths=[8,8,8]",
    "trainer.max_epochs=2",
    "callback.generative_score.n_images=16",
    "callback.sample_grid.every_n_epochs=1",
    "trainer.progress=none",
]
TINY_CNN = ["trainer.max_epochs=2", "cache.size_px=64", "trainer.progress=none"]


def ok(result: subprocess.CompletedProcess[str]) -> str:
    """Return what a command printed; fail with its error where it failed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def slice_of_real(pack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 40th image of the real pneumonia set, in its own layout."""
    root = pack("chest-xray-pneumonia-224")
    target = tmp_path_factory.mktemp("real")
    for path in sorted(root.rglob("*.jpeg"))[::40]:
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return target


def chain(cli: Cli, data: list[str], classes: list[str], tmp_path: Path) -> None:
    """GAN per class → synthetic sets → three arms → evaluation → report, then the same again: nothing to do."""
    for name in classes:
        gan = [
            "task=gan",
            *data,
            f"train_classes=[{name}]",
            f"name=gan-{name}",
            "cache.size_px=64",
            *TINY_GAN,
        ]
        printed = ok(cli("train", *gan))
        assert f"gan-{name}: finished  kid_pixel16/val" in printed
        ok(cli("generate", f"run=gan-{name}", "n=24"))
    sets = ",".join(f"gan-{name}" for name in classes)
    counts = ",".join(f"{name}:20" for name in classes)
    arms = {
        "real_only": [],
        "synthetic": ["mix=add", f"synthetic=[{sets}]", f"mix.counts={{{counts}}}"],
        "duplicate_real": ["mix=duplicate_real", f"mix.counts={{{counts}}}"],
    }
    for arm, extra in arms.items():
        ok(cli("train", *data, *TINY_CNN, *extra, f"arm={arm}", f"name=cnn-{arm}"))
    printed = ok(cli("evaluate", "runs=['cnn-*']", "report=phantom", "n_resamples=200"))
    report = tmp_path / "reports" / "phantom" / "report.html"
    assert printed.strip().endswith(str(report.relative_to(tmp_path)))
    page = report.read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page

    results = {arm: json.loads((tmp_path / f"runs/cnn-{arm}/result.json").read_text()) for arm in arms}
    first = results["real_only"]
    for arm, result in results.items():
        assert result["split_fingerprint"] == first["split_fingerprint"]
        assert result["counts"]["test"] == first["counts"]["test"]
        extra_kind = {"synthetic": "synthetic", "duplicate_real": "duplicated"}.get(arm)
        for name, n in result["counts"]["train"].items():
            assert n["real"] == first["counts"]["train"][name]["real"]
            assert [k for k in ("synthetic", "duplicated") if n[k]] == ([extra_kind] if extra_kind else [])
            assert extra_kind is None or n[extra_kind] == 20
        accuracy = result["metrics"]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        predictions = pd.read_parquet(tmp_path / f"runs/cnn-{arm}/predictions.parquet")
        assert len(predictions) == accuracy["n"] == sum(result["counts"]["test"].values())
        assert predictions["image_id"].is_unique

    again = ok(cli("train", *data, *TINY_CNN, "arm=real_only", "name=cnn-real_only"))
    assert "finished before; nothing to do" in again
    other = cli("train", *data, *TINY_CNN, "arm=real_only", "name=cnn-real_only", "optimizer.lr=0.5")
    assert other.returncode == 2
    assert "optimizer.lr: 0.0001 → 0.5" in other.stderr


@pytest.mark.slow  # README's walk (tests/test_readme.py) takes phantoms from GAN to report, the next test radiographs
def test_chain_on_phantoms(cli: Cli, tmp_path: Path) -> None:
    chain(cli, ["data=phantom", "data.n_patients=60"], ["normal", "opacity"], tmp_path)


def test_chain_on_real_radiographs(cli: Cli, tmp_path: Path, slice_of_real: Path) -> None:
    data = ["data=pneumonia", f"data.root={slice_of_real}", "split.val=0.15"]
    chain(cli, data, ["NORMAL", "PNEUMONIA"], tmp_path)


@pytest.mark.slow  # tests/leaks/test_planted.py (a_gan_of_test_images) plants the same leak in one process
def test_a_leaking_synthetic_set_is_refused_or_marked(cli: Cli, tmp_path: Path) -> None:
    """A GAN of another split has seen this split's test images."""
    data = ["data=phantom", "data.n_patients=60"]
    gan = [
        "task=gan",
        *data,
        "split.seed=1",
        "train_classes=[normal]",
        "name=g",
        "cache.size_px=64",
        *TINY_GAN,
    ]
    ok(cli("train", *gan))
    ok(cli("generate", "run=g", "n=24"))
    mixed = [*data, *TINY_CNN, "mix=add", "synthetic=[g]", "mix.counts={normal:8}", "name=c"]
    refused = cli("train", *mixed)
    assert refused.returncode == 2
    assert "leak:" in refused.stderr and "leakage=allow" in refused.stderr
    ok(cli("train", *mixed, "leakage=allow", "name=allowed"))
    ok(cli("evaluate", "runs=[allowed]", "n_resamples=50"))
    assert (
        "validation or test images"
        in json.loads((tmp_path / "runs/allowed/result.json").read_text())["leakage"]
    )


@pytest.mark.slow  # tests/evaluation/test_synthesize.py asks it of the function that the command calls
def test_same_seed_same_bytes(cli: Cli, tmp_path: Path) -> None:
    """A synthetic set is a function of its recipe: another n holds the same image at the same index."""
    gan = [
        "task=gan",
        "data.n_patients=40",
        "train_classes=[normal]",
        "name=g",
        "cache.size_px=64",
        *TINY_GAN,
    ]
    ok(cli("train", *gan))
    ok(cli("generate", "run=g", "n=20", "name=a"))
    ok(cli("generate", "run=g", "n=40", "name=b", "export=png"))
    a, b = (np.load(tmp_path / f"synthetic/{name}/images.npy") for name in "ab")
    assert np.array_equal(a, b[:20])
    assert len(list((tmp_path / "synthetic/b/png/normal").glob("*.png"))) == 40
