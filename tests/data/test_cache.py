"""The cache: whole or absent, the same bytes however often it was interrupted."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data.cache import CachedImages, ImageCache, _has_hash
from cxr.data.decode import fit, read_gray
from cxr.errors import UserError
from cxr.files import file_sha256


def index_of(paths: list[str], hashes: list[str]) -> pd.DataFrame:
    n = len(paths)
    return pd.DataFrame(
        {
            "image_id": paths,
            "path": paths,
            "label:A": np.ones(n, np.float32),
            "patient_id": pd.Series([f"p{i}" for i in range(n)], dtype=object),
            "view": pd.Series([None] * n, dtype=object),
            "source": pd.Series([None] * n, dtype=object),
            "official_split": pd.Series([None] * n, dtype=object),
            "content_hash": hashes,
        }
    )


class Files:
    """A source of the files below a folder that counts what it reads."""

    name = "files"
    classes = ("A",)
    multi_label = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.n_read = 0

    def index(self) -> pd.DataFrame:
        files = sorted(p for p in self.root.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
        hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
        return index_of([p.relative_to(self.root).as_posix() for p in files], hashes)

    def read(self, path: str) -> Any:
        self.n_read += 1
        return read_gray(self.root / path)


class Drawn(Files):
    """A source that draws its images, as the phantom does."""

    name = "drawn"

    def __init__(self, n: int) -> None:
        self.n, self.n_read = n, 0

    def index(self) -> pd.DataFrame:
        return index_of([f"drawn/{i:04d}" for i in range(self.n)], [f"{i:064x}" for i in range(self.n)])

    def read(self, path: str) -> Any:
        self.n_read += 1
        return np.random.default_rng(int(path[6:])).integers(0, 256, (20, 30), dtype=np.uint8)


def build(source: Any, directory: Path, **changes: Any) -> CachedImages:
    settings: dict[str, Any] = {
        "size_px": 16, "fit": "stretch", "window": None, "on_bad_image": "stop", "workers": 2
    }  # fmt: skip
    return ImageCache(dir=directory, **(settings | changes)).build(source, source.index())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (20 + i, 30), dtype=np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), image)
    return root


def test_pixels_are_those_of_the_files_and_read_once(folder: Path, tmp_path: Path) -> None:
    source = Files(folder)
    cached = build(source, tmp_path / "cache")
    assert cached.images.shape == (6, 16, 16) and cached.images.dtype == np.uint8
    for row, path in enumerate(cached.index["path"]):
        assert (cached.images[row] == fit(read_gray(folder / path), 16, "stretch")).all()
    assert isinstance(cached.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        cached.images[0] = 0
    again = build(source, tmp_path / "cache")
    assert source.n_read == 6 and again.path == cached.path and again.key == cached.key
    assert sorted(p.name for p in cached.path.iterdir()) == [
        "images.checked.json", "images.npy", "index.parquet", "manifest.json", "rejected.csv"
    ]  # fmt: skip
    manifest = json.loads((cached.path / "manifest.json").read_text())
    digest = hashlib.sha256((cached.path / "images.npy").read_bytes()).hexdigest()
    assert manifest["images_sha256"] == digest and manifest["versions"]["cv2"] == cv2.__version__
    assert (manifest["n"], manifest["n_rejected"], manifest["fit"]) == (6, 0, "stretch")
    assert cached.path.name == f"files-16-{cached.key}"


def test_the_key_follows_content_and_parameters_but_not_labels(folder: Path, tmp_path: Path) -> None:
    source = Files(folder)
    first = build(source, tmp_path / "cache")
    assert build(source, tmp_path / "cache", size_px=8).key != first.key
    assert build(source, tmp_path / "cache", fit="pad").key != first.key
    relabelled = source.index().assign(**{"label:A": 0.0, "patient_id": "other"})
    cache = ImageCache(tmp_path / "cache", 16, "stretch", None, "stop", 1)
    opened = cache.build(source, relabelled)
    assert opened.key == first.key and set(opened.index["patient_id"]) == {"other"}
    cv2.imwrite(str(folder / "0.png"), np.zeros((9, 9), np.uint8))
    assert build(source, tmp_path / "cache").key != first.key


def test_bad_files_stop_the_run_and_skip_leaves_them_out(folder: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(9).integers(0, 256, (64, 64), dtype=np.uint8)
    jpg = cv2.imencode(".jpg", noise)[1].tobytes()
    (folder / "2b.jpg").write_bytes(jpg[: len(jpg) // 2])
    (folder / "3b.png").write_bytes(b"")
    (folder / "4b.png").write_text("no image")
    source = Files(folder)
    with pytest.raises(UserError) as caught:
        build(source, tmp_path / "cache")
    message = str(caught.value)
    for part in (
        "3 of 9",
        "2b.jpg",
        "truncated JPEG",
        "rejected.csv",
        "cache.on_bad_image=skip",
        "remove them",
    ):
        assert part in message
    assert "\n" not in message
    listed = Path(message.split("all are listed in ")[1].split(";")[0])
    assert listed.is_file()

    source.n_read = 0
    cached = build(source, tmp_path / "cache", on_bad_image="skip")
    assert source.n_read == 3, "the good files were decoded by the run that stopped"
    assert list(cached.index["image_id"]) == [f"{i}.png" for i in range(6)]
    assert list(cached.index.index) == list(range(6)) and len(cached.images) == 6
    for row, path in enumerate(cached.index["path"]):
        assert (cached.images[row] == fit(read_gray(folder / path), 16, "stretch")).all()
    with (cached.path / "rejected.csv").open() as file:
        rejected = list(csv.DictReader(file))
    assert [r["image_id"] for r in rejected] == ["2b.jpg", "3b.png", "4b.png"]
    assert [r["reason"].split(",")[0].split(" (")[0] for r in rejected] == [
        "truncated JPEG", "empty file", "not an image"
    ]  # fmt: skip
    assert len(build(source, tmp_path / "cache", on_bad_image="skip").images) == 6
    with pytest.raises(UserError, match="3 of 9 image files"):  # also when the cache is there already
        build(source, tmp_path / "cache")


def test_nothing_usable_is_refused_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("no")
    with pytest.raises(UserError, match="1 of 1"):
        build(Files(tmp_path / "images"), tmp_path / "cache", on_bad_image="skip")


def test_16_bit_without_a_window_stops_and_names_file_and_override(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(folder / "deep.png"), np.full((20, 20), 1000, np.uint16))
    with pytest.raises(UserError, match=r"deep\.png.*cache\.window=\[LOW,HIGH\]"):
        build(Files(folder), tmp_path / "cache", on_bad_image="skip")
    cached = build(Files(folder), tmp_path / "cache", window=[0, 2000])
    assert set(cached.images[list(cached.index["path"]).index("deep.png")].ravel().tolist()) <= {127, 128}


@pytest.mark.parametrize("damage", ["truncate", "index", "manifest"])
def test_a_damaged_cache_is_built_again(folder: Path, tmp_path: Path, damage: str) -> None:
    source = Files(folder)
    path = build(source, tmp_path / "cache").path
    good = (path / "images.npy").read_bytes()
    if damage == "truncate":
        with (path / "images.npy").open("r+b") as file:
            file.truncate(len(good) - 100)
    elif damage == "index":
        (path / "index.parquet").write_bytes(b"PAR1")
    else:
        (path / "manifest.json").write_text("{")
    assert len(build(source, tmp_path / "cache").images) == 6
    assert source.n_read == 12 and (path / "images.npy").read_bytes() == good


def test_bytes_are_read_again_only_when_they_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "images.npy"
    np.save(file, np.zeros((3, 8, 8), np.uint8))
    sha256, hashed = file_sha256(file), list[Path]()

    def watched(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("cxr.data.cache.file_sha256", watched)
    assert _has_hash(file, sha256) and _has_hash(file, sha256)
    assert len(hashed) == 1
    assert not _has_hash(file, "0" * 64) and len(hashed) == 2
    images = np.load(file, mmap_mode="r+")
    images[1, 2, 3] = 9
    images.flush()
    assert not _has_hash(file, sha256) and len(hashed) == 3
    file.with_name("images.checked.json").write_text("[")
    assert not _has_hash(file, sha256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 0}, "cache.size_px"),
        ({"window": [5, 1]}, "cache.window"),
        ({"workers": 0}, "cache.workers"),
    ],
)
def test_senseless_parameters_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Drawn(2), tmp_path, **changes)


SLOW_BUILD = """
    import sys, time
    from pathlib import Path
    import cxr.data.cache as cache
    sys.path.insert(0, sys.argv[1])
    from test_cache import Drawn, build

    cache.CHUNK = 8
    read = Drawn.read
    def slow(self, path):
        time.sleep(float(sys.argv[3]))
        return read(self, path)
    Drawn.read = slow
    source = Drawn(96)
    build(source, Path(sys.argv[2]))
    print(source.n_read)
"""


def start(directory: Path, seconds: float, repository: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SLOW_BUILD),
            str(Path(__file__).parent),
            str(directory),
            str(seconds),
        ],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_after_kill_9_the_same_command_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, repository: Path
) -> None:
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    process = start(interrupted, 0.03, repository)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        bitmaps = list(interrupted.glob("*.partial/done.bin"))
        if bitmaps and 16 <= sum(bitmaps[0].read_bytes()) < 96:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    assert not list(interrupted.glob("*/manifest.json"))
    n_done = sum(next(interrupted.glob("*.partial/done.bin")).read_bytes())
    assert 16 <= n_done < 96

    output, _ = start(interrupted, 0, repository).communicate(timeout=60)
    assert int(output) == 96 - n_done, "what was done before the kill was not done again"
    expected = build(Drawn(96), whole).path / "images.npy"
    resumed = next(interrupted.glob("drawn-*/images.npy"))
    assert resumed.read_bytes() == expected.read_bytes()
    assert not list(interrupted.glob("*.partial"))


def test_two_processes_at_once_build_once(tmp_path: Path, repository: Path) -> None:
    both = [start(tmp_path / "cache", 0.005, repository) for _ in range(2)]
    reads = sorted(int(process.communicate(timeout=60)[0]) for process in both)
    assert reads == [0, 96] and all(process.returncode == 0 for process in both)
    assert (build(Drawn(96), tmp_path / "whole").images == build(Drawn(96), tmp_path / "cache").images).all()


def test_another_decoder_does_not_continue_a_half_built_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "9.png").write_text("no image")
    source = Files(folder)
    with pytest.raises(UserError):
        build(source, tmp_path / "cache")
    source.n_read = 0
    monkeypatch.setattr(cv2, "__version__", "0.0.0")
    build(source, tmp_path / "cache", on_bad_image="skip")
    assert source.n_read == 7


@pytest.mark.parametrize("policy", ["stretch", "pad", "crop"])
def test_real_images_of_every_aspect_ratio(pack: Any, tmp_path: Path, policy: str) -> None:
    cached = build(Files(pack("cxr-oddities") / "images"), tmp_path / "cache", size_px=64, fit=policy)
    assert cached.images.shape == (8, 64, 64)
    assert (cached.images.reshape(8, -1).std(axis=1) > 10).all(), "every image shows something"


def test_the_real_pack_with_its_aspect_ratios(pack: Any, tmp_path: Path) -> None:
    source = Files(pack("chest-xray-pneumonia-aspect"))
    cached = build(source, tmp_path / "cache", size_px=32)
    assert cached.images.shape == (128, 32, 32)
    path = str(cached.index["path"][100])
    assert (cached.images[100] == fit(source.read(path), 32, "stretch")).all()
