"""Files are written whole: what a killed writer left goes with the next writing, what a living one writes stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cxr.files import atomic_path, write_text

REPOSITORY = Path(__file__).resolve().parents[1]
WRITER = """
import sys, time
from pathlib import Path
from cxr.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_the_next_writing_removes_what_a_killed_one_left_and_nothing_that_is_under_way(
    tmp_path: Path,
) -> None:
    target = tmp_path / "report.html"
    (tmp_path / ".report.html.mine").touch()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        [half] = tmp_path.glob(".report.html.*.html")
        write_text(target, "another's")
        assert half.exists(), "its writer lives"
        os.kill(writer.pid, signal.SIGKILL)
    write_text(tmp_path / "other.html", "")
    assert half.exists(), "of another target"
    write_text(target, "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".report.html.mine", "other.html", "report.html"]
    assert target.read_text() == "whole"


def test_two_writers_of_one_target_in_one_process_do_not_remove_each_others_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.json") as first, atomic_path(tmp_path / "a.json") as second:
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a.json").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
