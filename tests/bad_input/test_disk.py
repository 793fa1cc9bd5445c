"""Disks that are full, may not be written or read, or are in use: the same end, and the same command goes on after it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = runpy.run_path(str(HERE / "cases.py"))
run_here: Callable[..., object] = runpy.run_path(str(HERE / "test_bad_input.py"))["run_here"]
FOLDER, CLASSIFIER = TABLE["FOLDER"], TABLE["CLASSIFIER"]
FULL = r"no space left on the disk; free some and run the same command again, or set runs_dir="

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a function that mounts `disk`, a file system in memory, with options, or mounts it anew."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        how = ["-o", f"remount,{options}"] if place.is_mount() else ["-t", "tmpfs", "-o", options, "tmpfs"]
        tried = subprocess.run(["mount", *how, str(place)], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip() or 'mount failed'}")
        return place

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the set and a finished classifier, runs/c."""
    place = tmp_path_factory.mktemp("finished")
    TABLE["good_folder"](place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run_here("train", *CLASSIFIER) is None
    return place


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the set that nothing is wrong with."""
    TABLE["good_folder"](tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capfd: pytest.CaptureFixture[str], script: str, *arguments: str) -> str:
    """Return the one line that a command ends in, with exit code 2."""
    capfd.readouterr()
    code = run_here(script, *arguments)
    out, err = capfd.readouterr()
    assert code == 2, out + err
    [line] = err.splitlines()
    return line


def files(folder: Path) -> dict[str, str]:
    """Return the hash of every file but locks."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    }


def test_disk_full_while_caching(here: Path, disk: Disk, capfd: pytest.CaptureFixture[str]) -> None:
    """24 images of 64 px need 96 KiB: a memory-map over a file with holes would end in SIGBUS."""
    place = disk("size=64k")
    line = refused(capfd, "train", *FOLDER, "cache.dir=disk", "cache.size_px=64")
    assert re.search(r"disk/folder-64-\w+\.partial/pixels\.npy: " + FULL, line), line
    assert all(re.fullmatch(r"hashes-\w+\.json", name) for name in files(place))
    assert not [p for p in place.iterdir() if p.is_dir()]
    disk("size=4m")
    assert run_here("train", *FOLDER, "cache.dir=disk", "cache.size_px=64") is None


def test_disk_full_while_checkpointing(here: Path, disk: Disk, capfd: pytest.CaptureFixture[str]) -> None:
    place = disk("size=100k")
    line = refused(capfd, "train", *FOLDER, "runs_dir=disk")
    assert re.search(r"disk/r/checkpoints/(last|best)\.ckpt: " + FULL, line), line
    left = files(place)
    assert not [name for name in left if Path(name).name.startswith(".") or name.endswith(".ckpt")], left
    assert json.loads((place / "r" / "status.json").read_text())["state"] in ("failed", "running")
    disk("size=50m")
    assert run_here("train", *FOLDER, "runs_dir=disk") is None
    assert json.loads((place / "r" / "status.json").read_text())["state"] == "finished"


def test_disk_full_while_writing_results(
    tmp_path: Path,
    finished: Path,
    disk: Disk,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    place = disk("size=50m")
    shutil.copytree("runs/c", place / "c")
    before = files(place)
    ballast = place / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    line = refused(capfd, "evaluate", "runs=[c]", "runs_dir=disk", "n_resamples=20")
    assert re.search(FULL, line), line
    ballast.unlink()
    assert files(place) == before
    assert run_here("evaluate", "runs=[c]", "runs_dir=disk", "n_resamples=20") is None
    assert json.loads((place / "c" / "result.json").read_text())["run"] == "c"


@pytest.mark.parametrize("setting", ["runs_dir=disk", "cache.dir=disk"])
def test_a_disk_that_is_read_only(
    here: Path, disk: Disk, capfd: pytest.CaptureFixture[str], setting: str
) -> None:
    place = disk("size=1m")
    disk("ro")
    line = refused(capfd, "train", *FOLDER, setting)
    assert re.search(
        r"disk\S*: Read-only file system; expected a place that can be read and written", line
    ), line
    assert not files(place)


@pytest.mark.parametrize("setting", ["runs_dir=shut", "cache.dir=shut", "data.root=shut"])
def test_a_folder_without_permission(
    here: Path, cli: Cli, setting: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The rights of root are laid down for it, as root may read and write everything."""
    shutil.copytree("set", "shut")
    shut = here / "shut" / ("sick" if setting.startswith("data") else "")
    for module in ("cxr.script.fit", "cxr.data.folder", "cxr.data.split", "cxr.task.classifier"):
        __import__(module)  # where only root may look for it
    shut.chmod(0o000)
    user = os.geteuid()
    opened = [here, *here.parents[:3]] if user == 0 else []
    modes = [(p, p.stat().st_mode) for p in opened if p.stat().st_uid == 0]
    try:
        if user == 0:
            for p, mode in modes:
                p.chmod(mode | 0o055)
            here.chmod(0o777)
            os.seteuid(65534)
        line = refused(capfd, "train", *FOLDER, setting)
    finally:
        if user == 0:
            os.seteuid(0)
            for p, mode in modes:
                p.chmod(mode)
        shut.chmod(0o755)
    assert re.search(
        r"shut\S*: (Permission denied; expected a place|cannot be read \(Permission denied\); expected a folder)",
        line,
    )


def test_a_run_that_another_process_holds(
    here: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its lock names it; when it has died, however, nobody has to clean anything."""
    holding = textwrap.dedent("""
        import sys
        from pathlib import Path
        from cxr.run import open_run
        with open_run(Path("runs"), "r", {"a": 1}, {"a": 1}) as run:
            run.start()
            print("held", flush=True)
            sys.stdin.read()
    """)
    other = subprocess.Popen(
        [sys.executable, "-c", holding],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        line = refused(capfd, "train", *FOLDER)
        assert re.search(
            rf"runs/r: in use by process {other.pid} on \S+ since .*; wait for it or stop it", line
        ), line
    finally:
        other.kill()
        other.communicate()
    assert run_here("train", *FOLDER) is None


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("train", FOLDER, r"1 of 24 image files cannot be used, the first is sick/p03\.png \(empty file\)"),
        pytest.param(
            "evaluate",
            ["runs=[c]"],
            r"runs/c/checkpoints/last\.ckpt: not a checkpoint of cxr",
            marks=pytest.mark.slow,
        ),
        pytest.param("generate", ["run=c"], r"runs/c: not a GAN run", marks=pytest.mark.slow),
    ],
    ids=["train", "evaluate", "generate"],
)
def test_in_a_process_of_its_own(
    tmp_path: Path, finished: Path, cli: Cli, script: str, arguments: list[str], told: str
) -> None:
    """What the table runs in one process, as a shell sees it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    spoilt = tmp_path / (TABLE["SICK"] if script == "train" else TABLE["CKPT"])
    spoilt.write_bytes(b"")
    ended = cli(script, *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(told, line), line
