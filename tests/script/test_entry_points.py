"""What every entry point does around its work: pipes that nobody reads, launchers that check nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("unbuffered", ["1", ""], ids=["while printing", "at the end"])
@pytest.mark.parametrize("script", ["train", "generate"])
def test_help_ends_quietly_where_nobody_reads_on(
    script: str, unbuffered: str, repository: Path, tmp_path: Path
) -> None:
    """`--help | head -1` on a slow day: the reader has gone before the first byte."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(repository / f"{script}.py"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 128 + signal.SIGPIPE)


def test_a_broken_pipe_that_is_not_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cxr.config import run_app

    def job(config: object) -> None:
        raise BrokenPipeError("a worker's")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", "run=some"])
    with pytest.raises(BrokenPipeError, match="a worker's"):
        run_app("generate", job)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [([], "before it has checked the others"), (["trainer=ddp"], "walk the whole sweep again")],
)
def test_a_launcher_that_checks_no_sweep_is_refused(
    overrides: list[str], why: str, cli: Cli, tmp_path: Path
) -> None:
    done = cli("train", "-m", "hydra/launcher=basic", "seed=0,1", *overrides)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hydra/launcher=basic: ") and why in line
    assert line.endswith("set hydra/launcher=processes")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ["folder", "table"])
def test_classes_that_must_be_set_say_so_in_yaml_and_at_the_door(
    data: str, repository: Path, cli: Cli
) -> None:
    file = repository / "conf" / "data" / f"{data}.yaml"
    assert yaml.safe_load(file.read_text("utf-8"))["classes"] is None
    (told,) = [line for line in file.read_text("utf-8").splitlines() if line.startswith("classes:")]
    assert "must be set" in told
    done = cli("train", f"data={data}")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: data.classes: must be a list of class names, and is not; set data.classes=[A,B]\n"
    )
