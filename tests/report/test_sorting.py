"""Tables sort in a browser by value and by keyboard, and are whole without a script."""

from __future__ import annotations

import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from cxr.files import write_text
from cxr.report import html

HEAD = ["Model", "Score"]
BODY = [["b10", "9.50 [1, 2]"], ["b9", "—"], ["a", "−1.00"], ["c", "1,171 (685)"]]


def page(probe: str = "") -> str:
    """Return a page of one table; `probe` is a script of the test, put where its page may run it."""
    text = html.page("t", "k", "b", [], "", [("S", html.grid_table(HEAD, BODY, numbers=(1,)))])
    if probe:
        policy = text[text.index("<meta http-equiv") : text.index("<title>")]
        text = text.replace(policy, "").replace("</body>", f"<script>{probe}</script></body>")
    return text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("−0.30 to +1.10", -0.3),
        ("+2.06", 2.06),
        ("1,171 (685)", 1171.0),
        ("95.00 [93.1, 96.2]", 95.0),
        ("<0.5", 0.5),
        ("3 / 3", 3.0),
        ("—", None),
        ("n/a", None),
        ("", None),
        ("real only", None),
    ],
)
def test_a_number_is_read_from_its_text(text: str, number: float | None) -> None:
    assert html.number_in(text) == number


def test_a_table_without_a_script_has_everything() -> None:
    plain = page().split("<script>")[0]
    assert [plain.index(f">{name}<") for name, _ in BODY] == sorted(plain.index(f">{n}<") for n, _ in BODY)
    assert plain.count('<th scope="col"') == 2 and "<button" not in plain and "<select" not in plain
    assert 'data-value="-1.0"' in plain and plain.count("data-value") == 3


def test_only_our_script_may_run() -> None:
    import base64
    import hashlib

    script = page().split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page() and "default-src 'none'" in page()
    assert "http" not in script and "innerHTML" not in script and "eval" not in script


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium to click in")
    return found


def seen(browser: str, tmp_path: Path, text: str) -> str:
    write_text(tmp_path / "page.html", text)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [browser, *flags, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return unescape(shown.stdout)


PROBE = """
const order = () => Array.from(document.querySelectorAll("tbody tr"), (row) => row.cells[0].textContent).join(" ");
const heads = Array.from(document.querySelectorAll("th")), said = [];
const click = (i) => {
  heads[i].querySelector("button").click();
  said.push(order() + "|" + heads.map((head) => head.getAttribute("aria-sort")).join(","));
};
click(1); click(1); click(1); click(0); click(0);
const list = document.querySelector("select");
said.push(Array.from(list.options, (option) => option.text).join(";") + "|" + list.value);
list.value = "1 ascending"; list.dispatchEvent(new Event("change")); said.push(order());
said.push(heads[1].querySelector("button").tabIndex);
document.title = said.join(" / ");
"""


def test_clicks_sort_by_value(browser: str, tmp_path: Path) -> None:
    dom = seen(browser, tmp_path, page(PROBE))
    title = dom[dom.index("<title>") + 7 : dom.index("</title>")]
    assert title.split(" / ") == [
        "c b10 a b9|none,descending",  # what has no number stays last
        "a b10 c b9|none,ascending",
        "b10 b9 a c|none,none",  # as the report has it
        "a b9 b10 c|ascending,none",
        "c b10 b9 a|descending,none",
        "order of the report;Model, ascending;Model, descending;Score, descending;Score, ascending|0 descending",
        "a b10 c b9",
        "0",  # reached by the tab key
    ]


def test_the_script_runs_under_the_page_s_own_policy(browser: str, tmp_path: Path) -> None:
    assert '<th scope="col" data-column="0" aria-sort="none"><button type="button">' in seen(
        browser, tmp_path, page()
    )
