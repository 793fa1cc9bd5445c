"""What lies between and behind a set's images: ends, classes, nearest images, projections; files and page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr.data.synthetic import SyntheticSet
from cxr.errors import UserError
from cxr.evaluation.collection import Collection
from cxr.evaluation.exploration import Part, Sizes
from cxr.evaluation.explore import explore
from cxr.evaluation.explore_page import signed, write_exploration
from cxr.evaluation.review import write_review
from cxr.evaluation.synthesize import TrainedGenerator, synthesize
from cxr.gan.covidgan import Generator as Conditional
from cxr.gan.talukdar import Generator

CPU = torch.device("cpu")
FEW = Sizes(
    strips=2,
    steps=4,
    morphs=2,
    morph_latents=3,
    gallery=3,
    searched=5,
    projected=2,
    starts=2,
    projection_steps=4,
)
ODD = "</script>é, NORMAL"


def unconditional(tmp_path: Path, *, latent_dim: int = 4) -> list[TrainedGenerator]:
    network = Generator(
        latent_dim=latent_dim,
        image_size_px=16,
        channels=3,
        widths=[8, 8],
        negative_slope=0.2,
        init="glorot",
        seed=5,
    )
    return [made_by(network, "SICK", None, tmp_path)]


def conditional(tmp_path: Path, *, soft: bool = False) -> list[TrainedGenerator]:
    network: nn.Module = Conditional(
        n_classes=2,
        latent_dim=4,
        latent_std=0.5,
        embedding_dim=3,
        image_size_px=16,
        channels=1,
        widths=[8, 8],
        seed=1,
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(8.0)
    if soft:
        network = Soft(network)
    return [made_by(network, name, k, tmp_path) for k, name in enumerate(("SICK", ODD))]


class Soft(nn.Module):
    """Takes classes, or their weights (B, 2)."""

    soft_labels = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.n_classes, self.image_size_px = inner, 2, 16
        self.latent_std, self.sample_latent = 0.5, inner.sample_latent  # type: ignore[misc]

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        if not labels.is_floating_point():
            made: Tensor = self.inner(z, labels)
            return made
        each = [self.inner(z, torch.full((len(z),), k)) for k in range(2)]
        return sum(w[:, None, None, None] * one for w, one in zip(labels.T, each, strict=True))  # type: ignore[return-value]


def made_by(network: nn.Module, label: str, position: int | None, tmp_path: Path) -> TrainedGenerator:
    network.requires_grad_(False).eval()
    return TrainedGenerator(network, label, tmp_path / "g.ckpt", "c" * 64, "ema", 7, position)


def make(
    tmp_path: Path, gans: Sequence[TrainedGenerator], n: int = 6, truncation: float | None = None
) -> SyntheticSet:
    return synthesize(
        tmp_path / f"set-{truncation}", gans, n={g.label: n for g in gans}, seed=3, curation="none", fraction=0.07, block=4,
        precision="float32", export="none", device=CPU, trained_on=["h0"], split_fingerprint="f", truncation=truncation,
        progress=False,
    )  # fmt: skip


def reals(n: int, prefix: str) -> Collection:
    images = np.random.default_rng(len(prefix)).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    names = [f"{prefix}{i}" for i in range(n)]
    return Collection(images, None, names, [f"h-{x}" for x in names], [f"p-{x}" for x in names])


def parts_of(
    made: SyntheticSet,
    gans: Sequence[TrainedGenerator],
    training: Collection | None = None,
    held_out: Collection | None = None,
    **changes: Any,
) -> dict[str, Part]:
    val = held_out or reals(4, "val")
    classes = [gans[i % len(gans)].label for i in range(len(val.ids))]
    found = explore(made, gans, training or reals(5, "train"), val, classes, device=CPU, sizes=FEW, **changes)
    return {part.key: part for part in found}


@pytest.mark.parametrize("truncation", [None, 0.7])
@pytest.mark.parametrize("kind", [unconditional, conditional])
def test_ways_begin_and_end_at_images_of_the_set(
    kind: Callable[[Path], list[TrainedGenerator]], truncation: float | None, tmp_path: Path
) -> None:
    gans = kind(tmp_path)
    made = make(tmp_path, gans, truncation=truncation)
    part = parts_of(made, gans)["interpolation"]
    assert not part.real
    pairs = [(r["class"], r["rows"]) for r in part.record["strips"]]
    one = [("SICK", [0, 1]), ("SICK", [2, 3])]
    assert pairs == (one if len(gans) == 1 else [("SICK", [0, 1]), (ODD, [6, 7])])
    for strip, (_, rows) in zip(part.strips, pairs, strict=True):
        assert len(strip.pictures) == len(strip.captions) == 4
        for picture, row in zip((strip.pictures[0], strip.pictures[-1]), rows, strict=True):
            assert np.abs(picture.astype(int) - made.images[row]).max() <= 1  # another batch: other last bits
    gaps = part.record["strips"][0]["rms_step"]
    assert len(gaps) == 3 and f"at most {max(gaps):.1f}" in part.strips[0].about


def test_a_set_of_one_image_has_no_way(tmp_path: Path) -> None:
    gans = unconditional(tmp_path)
    part = parts_of(make(tmp_path, gans, n=1), gans)["interpolation"]
    assert not part.strips and "fewer than two" in part.told[-1]


def test_classes_of_a_gan_that_has_none_some_and_some_between(tmp_path: Path) -> None:
    gans = unconditional(tmp_path)
    none = parts_of(make(tmp_path / "a", gans), gans)["morph"]
    assert not none.strips and "not told a class" in none.told[0]

    gans = conditional(tmp_path)
    hard = parts_of(make(tmp_path / "b", gans), gans)["morph"]
    assert [list(s.captions) for s in hard.strips] == [["SICK", ODD, f"{ODD} − SICK"]] * 2
    first, other, gap = hard.strips[0].pictures
    np.testing.assert_array_equal(gap, other.astype(int) - first)
    assert gap.dtype == np.int16 and np.abs(gap).max() > 5
    assert "side by side" in hard.told[0]
    assert hard.record["rms_between_classes"] > 1 and hard.record["rms_between_latents"] > 1

    gans = conditional(tmp_path, soft=True)
    soft = parts_of(make(tmp_path / "c", gans), gans)["morph"]
    assert list(soft.strips[0].captions) == ["SICK", "33%", "67%", ODD, f"{ODD} − SICK"]
    ends = soft.strips[0].pictures
    assert np.abs(ends[0].astype(int) - first).max() <= 1 and np.abs(ends[3].astype(int) - other).max() <= 1
    between = (2 * ends[0].astype(float) + ends[3]) / 3
    assert np.abs(ends[1] - between).max() < 2


def test_a_planted_copy_is_the_nearest_and_stands_first(tmp_path: Path) -> None:
    gans = unconditional(tmp_path)
    made = make(tmp_path, gans, n=3)
    training = reals(5, "train")
    training.images[2] = made.images[1]
    part = parts_of(made, gans, training)["nearest"]
    assert part.real and part.record["n_training"] == 5
    pairs = {one["row"]: one for one in part.record["pairs"]}
    assert sorted(pairs) == [0, 1, 2]
    assert pairs[1]["pixel"] == {"nearest": "train2", "rms": 0.0}
    assert pairs[1]["aligned"]["nearest"] == "train2" and pairs[1]["aligned"]["distance"] < 1e-5
    assert part.record["medians"]["synthetic"]["n"] == 3 and part.record["medians"]["held-out real"]["n"] == 4
    at = [one["row"] for one in part.record["pairs"]].index(1)
    np.testing.assert_array_equal(part.strips[at].pictures[0], part.strips[at].pictures[1])


def test_projected_are_strangers_of_the_gans_classes_only(tmp_path: Path) -> None:
    gans = conditional(tmp_path)
    made, val = make(tmp_path, gans), reals(6, "val")
    training = Collection(val.images[:1], None, ["t"], ["other"], ["p-val0"])  # the patient of val0
    calls: list[int] = []
    found = parts_of(made, gans, training, val, advance=lambda: calls.append(1))["projection"]
    images = found.record["images"]
    assert len(images) == 2 and {one["class"] for one in images} == {"SICK", ODD}
    assert found.record["left_out"]["patient trained the GAN"] == 1
    for one, strip in zip(images, found.strips, strict=True):
        real, projection, gap, nearest = strip.pictures
        row = val.ids.index(one["id"])
        assert row != 0 and one["class"] == (ODD if row % 2 else "SICK")
        np.testing.assert_array_equal(real, val.images[row])
        np.testing.assert_array_equal(gap, projection.astype(int) - real)
        by_hand = np.sqrt(((projection.astype(float) - real) ** 2).mean())
        assert one["projection"]["pixel_rms"] == pytest.approx(by_hand)
        own = np.flatnonzero(made.index["class"] == one["class"])
        gaps = np.sqrt(((made.images[own].astype(float) - real) ** 2).mean(axis=(1, 2)))
        assert one["nearest_synthetic"]["row"] == own[gaps.argmin()] and one["nearest_synthetic"]["n"] == 6
        assert one["nearest_synthetic"]["pixel_rms"] == pytest.approx(gaps.min())
        np.testing.assert_array_equal(nearest, made.images[own[gaps.argmin()]])
    assert len(calls) == 2 * FEW.projection_steps


def test_what_cannot_be_shown_is_told(tmp_path: Path) -> None:
    gans = unconditional(tmp_path)
    made = make(tmp_path, gans)
    empty = reals(0, "")
    found = parts_of(made, gans, empty, reals(3, "val"))
    assert "None of the images" in found["nearest"].told[0] and found["projection"].strips
    none = explore(made, gans, reals(3, "train"), empty, [], device=CPU, sizes=FEW)[3]
    assert "nothing to project" in none.told[0] and not none.strips and not none.real

    class Cut(Generator):
        @torch.no_grad()
        def forward(self, z: Tensor) -> Tensor:
            return super().forward(z)

    gans[0].generator.__class__ = Cut
    assert "no gradient" in parts_of(made, gans)["projection"].told[0]
    gans = unconditional(tmp_path, latent_dim=256)
    assert "nearly any image" in parts_of(make(tmp_path / "many", gans), gans)["projection"].told[0]
    with pytest.raises(UserError, match=r"training images have 8 px and the set 16.*explore=false"):
        small = Collection(np.zeros((1, 8, 8), np.uint8), None, ["a"], ["b"], [None])
        parts_of(made, gans, small)


def written(tmp_path: Path, gans: Sequence[TrainedGenerator]) -> tuple[SyntheticSet, Path]:
    made = make(tmp_path, gans)
    return made, write_exploration(made, list(parts_of(made, gans).values()), {"precision": "float32"})


def test_page_and_files_are_whole_alike_and_replaced(tmp_path: Path) -> None:
    gans = conditional(tmp_path)
    made, page = written(tmp_path, gans)
    files = {p.name: p.read_bytes() for p in [page, *(made.path / "explore").iterdir()]}
    (made.path / "explore" / "old.png").write_bytes(b"")
    (made.path / ".explore.partial").mkdir()
    written(tmp_path, gans)
    assert {p.name: p.read_bytes() for p in [page, *(made.path / "explore").iterdir()]} == files
    assert not list(made.path.glob(".*"))

    text = page.read_text("utf-8")
    assert (
        "default-src 'none'" in text
        and "http:" not in text
        and "https:" not in text
        and "<script" not in text
    )
    assert ODD not in text and "&lt;/script&gt;é, NORMAL" in text
    assert text.index("must not be published") < text.index("<section")
    record = json.loads((made.path / "explore" / "explore.json").read_text("utf-8"))
    assert record["images_sha256"] == made.manifest["images_sha256"]
    shown = [one["file"] for part in record["parts"].values() for one in part["pictures"]]
    assert sorted(shown) == sorted(name for name in files if name.endswith(".png"))
    strip = cv2.imread(str(made.path / "explore" / "interpolation-00.png"), cv2.IMREAD_UNCHANGED)
    assert strip.shape == (16, 4 * 16 + 3 * 2)
    assert np.abs(strip[:, :16].astype(int) - made.images[0]).max() <= 1
    assert cv2.imread(str(made.path / "explore" / "morph-00.png"), cv2.IMREAD_UNCHANGED).shape == (16, 52, 3)
    assert len(re.findall("data:image/png", text)) == sum(
        len(one["captions"]) for part in record["parts"].values() for one in part["pictures"]
    )


def test_the_review_page_links_to_it_where_it_is(tmp_path: Path) -> None:
    gans = unconditional(tmp_path)
    made = make(tmp_path, gans)
    assert 'href="explore.html"' not in write_review(made)[0].read_text("utf-8")
    written(tmp_path, gans)
    assert 'href="explore.html"' in write_review(made)[0].read_text("utf-8")


def test_differences_are_red_above_and_blue_below() -> None:
    none, above, far, below = signed(np.array([[0, 32, 255, -64]]))[0].astype(int)
    assert none.tolist() == [0, 0, 0]
    assert above[2] > 100 > above[0] and far[2] == 255
    assert below[0] == 255 and below[2] < 100


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on PATH (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--window-size=1250,900", f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def test_every_picture_shows_and_nothing_is_wider_than_a_phone(browser: Any, tmp_path: Path) -> None:
    _, page = written(tmp_path, conditional(tmp_path))
    browser.get(page.as_uri())
    assert browser.get_log("browser") == [], "the console is silent"
    images = browser.find_elements("css selector", "img")
    assert images and all(
        browser.execute_script("return arguments[0].naturalWidth", i) == 16 and i.get_attribute("alt")
        for i in images
    )
    alarm = browser.find_element("css selector", "[role=alert]").rect
    assert alarm["y"] + alarm["height"] < 900, "the warning is seen without scrolling"
    for width in (390, 320):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
