"""Start many commands, each in a process of its own, without the seconds that importing takes each time.

Run as a program, this imports what the entry points import and then forks: a line of JSON on stdin, {"script", "words",
"folder", "error"}, is a child that leads a session of its own and runs `script` as `__main__`; its process id is answered.
The line {"wait": id} is answered by the exit code, negative for a signal. It touches no tensor before it forks.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

WARM = (
    "cxr.script.fit", "cxr.script.predict", "cxr.script.explain", "cxr.report.build", "cxr.evaluation.synthesize",
    "cxr.callback.generative_score", "cxr.callback.sample_grid", "cxr.data.phantom", "cxr.trainer",
    "pyarrow.parquet", "rich.progress",
)  # fmt: skip


class Forked:
    """The other side: starts commands and waits for them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, script: Path, words: list[str], folder: Path, error: Path) -> int:
        """Return the process id, which is the session's too."""
        return self._ask({"script": str(script), "words": words, "folder": str(folder), "error": str(error)})

    def wait(self, process: int) -> int:
        """Return the exit code of a command; negative: the signal that ended it."""
        return self._ask({"wait": process})

    def close(self) -> None:
        """End; commands that still run are not waited for."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def _become(job: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(job["folder"])
    for stream, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, job["error"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        handle = os.open(name, flags, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
    sys.argv = [job["script"], *job["words"]]
    runpy.run_path(job["script"], run_name="__main__")


def main() -> None:
    """Answer one line after the other until there are none."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    for name in WARM:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        elif process := os.fork():
            print(process, flush=True)
        else:
            _become(job)
            return


if __name__ == "__main__":
    main()
