"""Synthetic sets from checkpoints: the same bytes however they were made, and refusals in one line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cxr.data.synthetic import load_synthetic
from cxr.errors import UserError
from cxr.evaluation import synthesize as module
from cxr.evaluation.synthesize import TrainedGenerator, curated, load_generators, synthesize
from cxr.files import file_sha256
from cxr.gan.covidgan import Generator as ConditionalGenerator
from cxr.gan.latent import truncated
from cxr.gan.talukdar import Generator
from cxr.task.by_class import class_seed


def tiny_generator(seed: int) -> Generator:
    return Generator(
        latent_dim=8,
        image_size_px=16,
        channels=3,
        widths=[4, 4],
        negative_slope=0.2,
        init="glorot",
        seed=seed,
    )


def write_checkpoint(path: Path, classes: list[str], *, ema: bool = True) -> Path:
    """A GAN checkpoint as the task saves it; the moving average and the raw weights differ."""
    state = {f"generator.{k}": v for k, v in tiny_generator(1).state_dict().items()}
    if ema:
        state |= {f"generator_ema.{k}": v for k, v in tiny_generator(2).state_dict().items()}
    torch.save({"state_dict": state, "gan": {"classes": classes, "g_steps": 12}}, path)
    return path


@pytest.fixture
def gans(tmp_path: Path) -> list[TrainedGenerator]:
    return [
        load_generators(tiny_generator(0), write_checkpoint(tmp_path / f"{c}.ckpt", [c]), weights=w)[0]  # type: ignore[arg-type]
        for c, w in (("SICK", "ema"), ("NORMAL", "raw"))
    ]


make = functools.partial(
    synthesize,
    n={"SICK": 11, "NORMAL": 6},
    seed=3,
    curation="none",
    fraction=0.07,
    block=4,
    precision="float32",
    export="none",
    device=torch.device("cpu"),
    trained_on=["b", "a", "a"],
    split_fingerprint="f",
    progress=False,
)


def test_the_set_says_where_every_image_came_from(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    made = make(tmp_path / "set", gans)
    assert made.images.shape == (17, 16, 16)
    assert list(made.index["class"]) == ["SICK"] * 11 + ["NORMAL"] * 6
    assert list(made.index["z_index"]) == [*range(11), *range(6)]
    assert set(made.index["z_seed"]) == {3}
    assert made.manifest["trained_on"] == ["a", "b"]
    shas = [file_sha256(tmp_path / f"{c}.ckpt") for c in ("SICK", "NORMAL")]
    assert [c["sha256"] for c in made.manifest["checkpoints"]] == shas
    assert list(made.index["checkpoint_sha256"].unique()) == shas
    assert cv2.imread(str(tmp_path / "set" / "grid.png")) is not None
    assert not list(tmp_path.glob(".set*"))
    # image 7 of SICK is latent 7 of the seed through the moving average
    generator = tiny_generator(2)
    pixels = generator(generator.sample_latent(1, seed=3, start=7)).mean(1)[0]
    np.testing.assert_allclose(made.images[7], (pixels.detach() + 1) * 127.5, atol=0.51)


def test_same_seed_same_bytes_and_another_seed_others(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    files = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        make(tmp_path / name, gans, seed=seed)
        files.append((tmp_path / name / "images.npy").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("blocks", [0, 1, 3, 4])
def test_killed_and_started_again_equals_never_stopped(
    blocks: int, gans: list[TrainedGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make(tmp_path / "straight", gans)
    pixels, calls = module._pixels, []

    def dying(*args: Any) -> Any:
        if len(calls) == blocks:
            raise KeyboardInterrupt
        calls.append(args)
        return pixels(*args)

    monkeypatch.setattr(module, "_pixels", dying)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "killed", gans)
    assert not (tmp_path / "killed").exists()
    calls.clear()
    monkeypatch.setattr(module, "_pixels", lambda *args: (calls.append(args), pixels(*args))[1])
    resumed = make(tmp_path / "killed", gans)
    assert len(calls) == 5 - blocks  # 3 blocks of SICK, 2 of NORMAL; none twice
    for name in ("images.npy", "index.parquet", "grid.png", "manifest.json"):
        assert (resumed.path / name).read_bytes() == (straight.path / name).read_bytes(), name


def test_leftovers_of_another_recipe_are_not_continued(
    gans: list[TrainedGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(*args: Any) -> Any:
        if args[1] >= 4:
            raise KeyboardInterrupt
        return np.full((args[2], 16, 16), 99, np.uint8)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_pixels", write_half)
        make(tmp_path / "set", gans, seed=8)
    assert not (make(tmp_path / "set", gans).images[:4] == 99).all()


def test_last_fraction_is_the_tail_of_a_longer_run(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    assert curated(7, curation="last_fraction", fraction=0.07) == 93
    assert curated(1500, curation="last_fraction", fraction=0.07) == 21429 - 1500
    assert curated(1500, curation="none", fraction=0.07) == 0
    n = {"SICK": 7, "NORMAL": 3}
    tail = make(tmp_path / "tail", gans, n=n, curation="last_fraction", fraction=0.3)
    whole = make(tmp_path / "whole", gans, n={"SICK": 24, "NORMAL": 10})
    assert list(tail.index["z_index"]) == [*range(17, 24), *range(7, 10)]
    np.testing.assert_array_equal(tail.images, np.concatenate([whole.images[17:24], whole.images[31:34]]))


def test_finished_set_is_returned_and_another_recipe_refused(
    gans: list[TrainedGenerator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "set", gans)
    monkeypatch.setattr(module, "_generate", None)  # would be called to make anything
    assert make(tmp_path / "set", gans).manifest == made.manifest
    with pytest.raises(UserError, match=r"another recipe.*name="):
        make(tmp_path / "set", gans, seed=4)


def test_png_export(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    made = make(tmp_path / "set", gans)
    make(tmp_path / "set", gans, export="png")  # also of a set that is there
    files = sorted(p.relative_to(made.path).as_posix() for p in (made.path / "png").rglob("*.png"))
    assert len(files) == 17
    assert files[0] == "png/NORMAL/NORMAL-0000000.png"
    image = cv2.imread(str(made.path / "png" / "SICK" / "SICK-0000010.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(image, load_synthetic(made.path).images[10])


def test_low_precision_is_another_recipe(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    full, low = (make(tmp_path / p, gans, precision=p) for p in ("float32", "bfloat16"))
    assert np.abs(full.images.astype(int) - low.images).max() < 16
    assert full.manifest["recipe"] != low.manifest["recipe"]


def test_truncation_is_part_of_the_recipe_and_its_absence_is_not(
    gans: list[TrainedGenerator], tmp_path: Path
) -> None:
    plain = make(tmp_path / "plain", gans)
    assert "truncation" not in plain.manifest["recipe"]  # a set from before the key was there still holds
    held, again = make(tmp_path / "held", gans, truncation=1), make(tmp_path / "again", gans, truncation=1.0)
    assert held.manifest["recipe"] == {**plain.manifest["recipe"], "truncation": 1.0}
    assert not np.array_equal(held.images, plain.images)
    longer = make(tmp_path / "longer", gans, truncation=1.0, n={"SICK": 30, "NORMAL": 6})
    np.testing.assert_array_equal(held.images[:11], longer.images[:11])
    np.testing.assert_array_equal(held.images, again.images)
    generator = tiny_generator(2)
    z = truncated(generator.sample_latent(1, seed=3, start=7), 1.0, "normal")
    np.testing.assert_allclose(held.images[7], (generator(z).mean(1)[0].detach() + 1) * 127.5, atol=0.51)
    with pytest.raises(UserError, match=r"another recipe.*name="):
        make(tmp_path / "held", gans)


def test_user_mistakes(gans: list[TrainedGenerator], tmp_path: Path) -> None:
    for changes, match in (
        ({"n": {"SICK": 3}}, "n.NORMAL: missing"),
        ({"n": {"SICK": 3, "NORMAL": 3, "SIKC": 1}}, "n.SIKC.*did you mean 'SICK'"),
        ({"n": {"SICK": 0, "NORMAL": 3}}, "n.SICK: got 0"),
        ({"block": 0}, "block=64"),
        ({"truncation": 0.0}, "truncation: got 0, expected a number above 0"),
        ({"curation": "last_fraction", "fraction": 0.0}, "fraction=0.07"),
    ):
        with pytest.raises(UserError, match=match):
            make(tmp_path / "set", gans, **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="two GANs of the class SICK"):
        make(tmp_path / "set", [gans[0], gans[0]])
    assert not list(tmp_path.glob("set*"))


def test_loading_mistakes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "two.ckpt", ["A", "B"])
    with pytest.raises(UserError, match=r"train_classes=\[NAME\]"):
        load_generators(tiny_generator(0), tmp_path / "two.ckpt", weights="ema")
    write_checkpoint(tmp_path / "raw.ckpt", ["A"], ema=False)
    with pytest.raises(UserError, match="weights=raw"):
        load_generators(tiny_generator(0), tmp_path / "raw.ckpt", weights="ema")
    torch.save({"state_dict": {}}, tmp_path / "classifier.ckpt")
    with pytest.raises(UserError, match="not the checkpoint of a GAN"):
        load_generators(tiny_generator(0), tmp_path / "classifier.ckpt", weights="ema")
    other = Generator(
        latent_dim=9, image_size_px=16, channels=3, widths=[4, 4], negative_slope=0.2, init="glorot", seed=0
    )
    with pytest.raises(UserError, match="another generator"):
        load_generators(other, tmp_path / "raw.ckpt", weights="raw")


def conditional_generator(seed: int) -> ConditionalGenerator:
    return ConditionalGenerator(
        n_classes=2, latent_dim=8, latent_std=1.0, embedding_dim=4, image_size_px=16, channels=3,
        widths=[4, 4], seed=seed,
    )  # fmt: skip


def test_one_conditional_gan_makes_every_class(tmp_path: Path) -> None:
    trained = conditional_generator(1)
    torch.nn.init.normal_(trained.embedding.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(trained.label.weight, generator=torch.Generator().manual_seed(0))
    state = {f"generator.{k}": v for k, v in trained.state_dict().items()}
    record = {"classes": ["SICK", "NORMAL"], "conditional": True, "g_steps": 12}
    torch.save({"state_dict": state, "gan": record}, tmp_path / "two.ckpt")
    gans = load_generators(conditional_generator(0), tmp_path / "two.ckpt", weights="raw")
    assert [(gan.label, gan.position) for gan in gans] == [("SICK", 0), ("NORMAL", 1)]
    made = make(tmp_path / "set", gans, n={"SICK": 5, "NORMAL": 6})
    assert list(made.index["class"]) == ["SICK"] * 5 + ["NORMAL"] * 6
    seeds = [class_seed(3, name) for name in ("SICK", "NORMAL")]
    assert list(made.index["z_seed"].unique()) == seeds  # image i of both is not made from one latent
    assert [c["class"] for c in made.manifest["checkpoints"]] == ["SICK", "NORMAL"]
    for row, label, index in ((4, 0, 4), (10, 1, 5)):
        z = trained.sample_latent(1, seed=seeds[label], start=index)
        pixels = {
            k: trained.eval()(z, torch.tensor([k])).detach().mean(1)[0].add(1).mul(127.5) for k in (0, 1)
        }
        np.testing.assert_allclose(made.images[row], pixels[label], atol=0.51)
        assert np.abs(made.images[row] - pixels[1 - label].numpy()).max() > 2  # the class was told
    longer = make(tmp_path / "longer", gans, n={"SICK": 9, "NORMAL": 6})
    np.testing.assert_array_equal(longer.images[:5], made.images[:5])
    np.testing.assert_array_equal(longer.images[9:], made.images[5:])
