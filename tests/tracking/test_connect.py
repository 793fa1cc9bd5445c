"""Online, offline, not at all: what decides, what is said, what never leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb

from cxr.errors import UserError
from cxr.share import clean
from cxr.tracking import connect
from cxr.tracking.settings import Wandb

KEY = "0123456789abcdef0123456789abcdef01234567"


def settings(mode: Any) -> Wandb:
    return Wandb(
        project="cxr",
        entity=None,
        group=None,
        mode=mode,
        artifacts="none",
        worst_errors=0,
        share_ids="hashed",
    )


def begin(folder: Path, mode: Any) -> Any:
    asked: dict[str, Any] = {
        "folder": folder,
        "kind": "gan",
        "key": "k",
        "group": None,
        "tags": [],
        "config": {},
    }
    return connect.begin(settings(mode), **asked)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_told", set())


def test_home_and_secrets_are_cut_out_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh12345678")
    monkeypatch.setenv("SHORT_KEY", "cxr")
    assert clean(
        {"data": {"root": "/home/somebody/chest", "n": 3, "on": True}, "x": [Path("/home/somebody"), None]}
    ) == {
        "data": {"root": "~/chest", "n": 3, "on": True},
        "x": ["~", None],
    }
    assert clean("/home/somebody2/x and cxr") == "/home/somebody2/x and cxr"
    assert clean("key=abcdefgh12345678") == "key=***"
    assert clean("csv--home-somebody-x.csv") == "csv--home-x.csv"
    monkeypatch.setenv("HOME", "/")
    assert clean("/data/x") == "/data/x"


def test_without_a_key_auto_is_offline_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, offline: Any
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    for name in "ab":
        (tmp_path / name).mkdir()
        begin(tmp_path / name, "auto").finish()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("W&B")]
    assert len(lines) == 1
    assert lines[0].startswith(f"W&B: offline (not logged in); `wandb sync {tmp_path}/a/wandb/offline-run-*-")
    assert len(offline.read_all(tmp_path)) == 2
    with pytest.raises(UserError, match="wandb login"):
        begin(tmp_path / "a", "online")


def test_where_nobody_answers_auto_goes_offline_and_online_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, offline: Any
) -> None:
    def unreachable(**asked: Any) -> bool:
        assert asked == {"prompt": False, "verify": True}
        raise wandb.errors.AuthenticationError("Failed to authenticate with https://api: no answer.")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", unreachable)
    with pytest.raises(
        UserError, match=r"^logger\.mode=online: Failed to authenticate .*: no answer; run `wandb login`"
    ):
        begin(tmp_path, "online")
    begin(tmp_path, "auto").finish()
    told = "W&B: offline (Failed to authenticate with https://api: no answer); `wandb sync"
    assert told in capsys.readouterr().out
    offline.read(tmp_path)


def test_online_resumes_by_id_and_a_refusal_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def init(**arguments: Any) -> Any:
        asked.update(arguments)
        raise wandb.errors.CommError("entity nobody not found\nmore")

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(
        UserError, match=r"^logger\.project: .*\(entity nobody not found\); set logger\.entity=…"
    ):
        begin(tmp_path, "auto")
    assert (asked["mode"], asked["resume"], asked["reinit"]) == ("online", "allow", "create_new")
    assert asked["settings"].x_disable_meta


def test_an_error_and_ctrl_c_finish_the_run(tmp_path: Path, offline: Any) -> None:
    for name, error in {"a": ValueError, "b": KeyboardInterrupt}.items():
        (tmp_path / name).mkdir()
        with pytest.raises(error), connect.tracked(begin(tmp_path / name, "offline")):
            raise error
        assert [e.exit_code for e in offline.read(tmp_path / name).of("exit")] == [1]


def test_nothing_of_the_machine_is_recorded(tmp_path: Path, offline: Any) -> None:
    begin(tmp_path, "offline").finish()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert KEY.encode() not in content, file
            assert b"home-of-somebody" not in content, file
    found = offline.read(tmp_path)
    kinds = {r.WhichOneof("record_type") for r in found.records}
    assert not kinds & {"output", "output_raw"}
    assert not list(found.folder.rglob("requirements.txt"))
    assert not list(found.folder.rglob("wandb-metadata.json"))
