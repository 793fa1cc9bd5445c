"""The review page in a real browser: what is pressed is what the exported CSV says and what curate.py leaves."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr.data.synthetic import SyntheticSet, load_synthetic, write_synthetic
from cxr.evaluation.review import review_files, write_review

BIG_SEED = 2**62 + 1  # more than JavaScript's numbers hold
ODD = "</script>é, NORMAL"  # a class name that would end the page's data, and needs quotes in a CSV


def write_set(path: Path, n: int = 8) -> SyntheticSet:
    """A set of flat images, each of its own grey."""
    images = np.repeat(np.arange(n, dtype=np.uint8) * 20, 16 * 16).reshape(n, 16, 16)
    index = pd.DataFrame(
        {
            "class": ["SICK"] * (n // 2) + [ODD] * (n - n // 2),
            "z_seed": np.int64(BIG_SEED),
            "z_index": np.arange(n) + 100,
            "checkpoint_sha256": "c" * 64,
            "score": np.nan,
        }
    )
    manifest: dict[str, Any] = {
        "classes": ["SICK", ODD], "seed": 0, "checkpoints": [], "trained_on": ["a"], "split_fingerprint": "f",
    }  # fmt: skip
    return write_synthetic(path, images, index, manifest, None)


def data_of(page: Path) -> dict[str, Any]:
    text = (
        page.read_text("utf-8").partition('type="application/json" id="data">')[2].partition("</script>")[0]
    )
    data: dict[str, Any] = json.loads(text)
    return data


def test_the_page_holds_every_pixel_and_asks_for_nothing(tmp_path: Path) -> None:
    one = write_set(tmp_path / "set")
    (page,) = write_review(one)
    data = data_of(page)
    assert data["images_sha256"] == one.manifest["images_sha256"]
    assert [data["classes"][k] for k in data["class"]] == one.index["class"].tolist()
    assert data["z_seed"][0] == str(BIG_SEED)
    for picture, image in zip(data["images"], one.images, strict=True):
        png = np.frombuffer(base64.b64decode(picture), np.uint8)
        np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), image)
    text = page.read_text("utf-8")
    assert "default-src 'none'" in text
    assert "http:" not in text and "https:" not in text


def test_many_images_are_cut_into_pages(tmp_path: Path) -> None:
    one = write_set(tmp_path / "set")
    pages = write_review(one, max_images=3)
    assert [p.name for p in pages] == ["review.html", "review-2.html", "review-3.html"]
    assert [(data_of(p)["first"], len(data_of(p)["images"])) for p in pages] == [(0, 3), (3, 3), (6, 2)]
    sizes = [len(picture) for p in pages for picture in data_of(p)["images"]]
    assert [data_of(p)["first"] for p in write_review(one, max_bytes=sum(sizes[:5]))][1] == 5
    assert len(write_review(one, max_bytes=1)) == 8  # an image is never cut
    write_review(one)
    assert [p.name for p in review_files(one.path)] == ["review.html"]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, driven for real."""
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
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def press(browser: Any, keys: str) -> None:
    browser.switch_to.active_element.send_keys(keys)


def text_of(browser: Any, css: str) -> str:
    return str(browser.find_element("css selector", css).text)


def states(browser: Any) -> list[str]:
    cells = browser.find_elements("css selector", "#grid .cell")
    return [cell.get_attribute("class").removeprefix("cell ") for cell in cells]


def exported(browser: Any, folder: Path, name: str) -> Path:
    browser.find_element("id", "export").click()
    until = time.monotonic() + 10
    while not (folder / name).is_file():
        assert time.monotonic() < until, (
            f"{[p.name for p in folder.iterdir()]}; {text_of(browser, '#message')}"
        )
        time.sleep(0.05)
    return folder / name


def test_from_the_keys_to_the_curated_set(
    browser: Any, downloads: Path, tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    from selenium.webdriver.common.keys import Keys

    one = write_set(tmp_path / "synthetic" / "gan")
    (page,) = write_review(one)
    browser.get(page.as_uri())
    for keys in (
        "k",
        "r",
        Keys.ARROW_RIGHT,
        "K",
        " ",
        " ",
    ):  # keep 0, reject 1, leave 2, keep 3, reject and keep 4
        press(browser, keys)
    assert states(browser)[:5] == ["keep", "reject", "undecided", "keep", "reject"]
    press(browser, "k")  # moves on to 5
    press(browser, "r")
    press(browser, "u")  # takes back 5
    assert states(browser) == [
        "keep",
        "reject",
        "undecided",
        "keep",
        "keep",
        "undecided",
        "undecided",
        "undecided",
    ]
    assert text_of(browser, "#counts") == "3 kept · 1 rejected · 4 to go"

    browser.refresh()  # what was decided is still there; the cursor stands on the first undecided
    assert states(browser) == [
        "keep",
        "reject",
        "undecided",
        "keep",
        "keep",
        "undecided",
        "undecided",
        "undecided",
    ]
    assert text_of(browser, "#caption").startswith("Image 2 · SICK")
    press(browser, "k")
    press(browser, "n")
    assert text_of(browser, "#caption").startswith(f"Image 5 · {ODD}")
    press(browser, "r")

    choose = browser.find_element("id", "class")
    choose.find_element("css selector", f'option[value="{data_of(page)["classes"].index("SICK")}"]').click()
    assert states(browser) == ["keep", "reject", "keep", "keep"]

    browser.find_element("id", "export").click()  # nobody's decisions are not exported
    assert "Type your name" in text_of(browser, "#message")
    assert not list(downloads.iterdir())
    browser.find_element("id", "reviewer").send_keys('Kim "K" Roe, MD')
    file = exported(browser, downloads, "review-gan-Kim_K_Roe_MD.csv")
    assert browser.get_log("browser") == [], "the console is silent"

    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    words = ["keep", "reject", "keep", "keep", "keep", "reject", "undecided", "undecided"]
    assert frame["decision"].tolist() == words
    assert set(frame["reviewer"]) == {'Kim "K" Roe, MD', ""}
    assert set(frame["images_sha256"]) == {one.manifest["images_sha256"]}
    assert frame["class"].tolist() == one.index["class"].tolist()
    assert set(frame["z_seed"]) == {str(BIG_SEED)}
    assert (frame["time"] != "").tolist() == [word != "undecided" for word in words]

    typed = ["synthetic=gan", "filter=review", f"filter.csv=[{file}]"]
    refused = cli("curate", *typed)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: filter.undecided: 2 of 8 images are undecided, the first is 6;")
    done = cli("curate", *typed, "filter.undecided=drop")
    assert done.returncode == 0, done.stderr
    assert f"kept 1 of 4 {ODD}, 3 of 4 SICK;" in done.stdout
    curated = load_synthetic(tmp_path / "synthetic" / "gan-review")
    assert [int(image[0, 0]) for image in curated.images] == [0, 40, 60, 80]
    assert curated.index["source_row"].tolist() == [0, 2, 3, 4]
    assert (curated.path / "review-1.csv").read_bytes() == file.read_bytes()
    assert (curated.path / "review.html").is_file()
    (step,) = curated.manifest["curated"]
    assert step["reviewers"] == ['Kim "K" Roe, MD']


def test_touch_and_small_screens(browser: Any, tmp_path: Path) -> None:
    """Buttons decide too, and nothing is wider than a phone."""
    page = write_review(write_set(tmp_path / "touched", n=10), max_images=6)[0]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
    try:
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        for name in ("keep", "reject", "undo", "keep"):
            browser.find_element("id", name).click()
        assert states(browser)[:3] == ["keep", "keep", "undecided"]
        large = browser.find_element("id", "large").rect
        bar = browser.find_element("css selector", ".decide").rect
        assert large["y"] + large["height"] <= bar["y"], "the buttons cover the image"
        browser.execute_script(
            "const f = document.getElementById('figure'), o = (x) => ({pointerType: 'touch', clientX: x, clientY: 300});"
            "f.dispatchEvent(new PointerEvent('pointerdown', o(300)));"
            "f.dispatchEvent(new PointerEvent('pointerup', o(100)));"
        )
        assert states(browser)[:3] == ["keep", "keep", "reject"]
        links = browser.find_elements("css selector", "#parts a")
        links[1].click()  # the other part has decisions of its own
        assert states(browser) == ["undecided"] * 4
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
