"""Jobs forked from a warm parent: the same process, to its streams, signals and bits, as a new interpreter makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr.launch.starter import Command, Starter
from cxr.launch.warm import LOG, Forked, Unfit, WarmParent, modules_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs start warm on Linux only")

CONFIG = """
hydra:
  searchpath: ["file://{conf}"]
  output_subdir: null
  run: {{dir: .}}
  sweep: {{dir: sweeps/one}}
defaults: [_self_, {{override hydra/launcher: processes}}, {{override hydra/job_logging: none}}]
seed: 0
trainer: {{devices: 1}}
"""

# What a job is, seen from inside; the same program, warm or cold.
APP = """
PRELOAD = ({preload})
import json, os, signal, sys
from pathlib import Path
import hydra
import cxr.config
cxr.config.check_config = lambda config, find_data=True: None

def facts():
    import ctypes, hashlib, threadpoolctl
    import numpy as np, torch
    main, death = sys.modules["__main__"], ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(death))
    names = sorted(fd.name for fd in Path("/proc/self/fd").iterdir() if fd.exists())
    random = np.random.random(), __import__("random").random()
    draws = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    product = torch.nn.functional.conv2d(draws, torch.ones(4, 3, 3, 3)).numpy()
    torch.randn(300, 300) @ torch.randn(300, 300)
    return {{
        "differ": [os.getpid(), *random, torch.initial_seed()],
        "parent": os.getppid(),
        "group": [os.getpgid(0) - os.getpid(), os.getsid(0) - os.getpid()],
        "environment": {{k: v for k, v in os.environ.items() if "run.json" not in v}},
        "words": [sys.argv, sys.orig_argv, sys.path, os.getcwd(), str(main.__spec__), main.__file__],
        "signals": {{str(n): str(signal.getsignal(n)) for n in signal.valid_signals()}},
        "death": death.value,
        "fds": [[name, os.readlink("/proc/self/fd/" + name)] for name in names if int(name) < 3],
        "streams": [
            [s.encoding, s.errors, s.isatty(), s.line_buffering, s.write_through]
            for s in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "pools": sorted([p["internal_api"], p["num_threads"]] for p in threadpoolctl.threadpool_info()),
        "torch": [torch.get_num_threads(), hashlib.sha256(product.tobytes()).hexdigest()],
        "cuda": torch.cuda.is_initialized(), "umask": os.umask(0o22), "imported": "torch" in BEFORE,
    }}

BEFORE = set(sys.modules)

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(config):
    {body}

if __name__ == "__main__":
    main()
"""

Sweep = Callable[..., str]


@pytest.fixture
def sweep(tmp_path: Path, repository: Path) -> Sweep:
    """Write an application with this body and PRELOAD, sweep it, return what it printed."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text(CONFIG.format(conf=repository / "conf"))

    def run(body: str, *words: str, preload: str = "", code: int = 0) -> str:
        (tmp_path / "app.py").write_text(APP.format(body=body, preload=preload))
        environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "300"}
        done = subprocess.run(
            [sys.executable, "app.py", "-m", *words],
            cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    return run


def test_a_warm_job_sees_what_a_cold_one_sees(tmp_path: Path, sweep: Sweep) -> None:
    body = "Path(f\"{os.environ['OUT']}-{config.seed}\").write_text(json.dumps(facts()))"
    jobs: dict[str, list[dict[str, Any]]] = {}
    for kind, seeds in {"true": "1,2", "false": "1"}.items():
        os.environ["OUT"] = str(tmp_path / "facts")
        words = (f"seed={seeds}", "hydra.launcher.threads=2", f"hydra.launcher.warm={kind}")
        printed = sweep(body, *words, preload='"torch", "pandas",')
        del os.environ["OUT"]
        assert "cold" not in printed
        jobs[kind] = [
            json.loads((tmp_path / f"facts-{seed}").read_text()) for seed in map(int, seeds.split(","))
        ]
    (warm, other), (cold,) = jobs["true"], jobs["false"]
    assert warm["parent"] == other["parent"]
    assert (warm.pop("imported"), cold.pop("imported")) == (True, False)  # before the job began
    assert warm.pop("parent") != cold.pop("parent")
    for one, two in ((warm, other), (warm, cold)):
        assert not set(one["differ"]) & set(two["differ"])
    del warm["differ"], cold["differ"]
    assert warm["death"] == signal.SIGTERM
    for fact, value in cold.items():
        assert warm[fact] == value, fact
    assert not (tmp_path / "sweeps" / "one" / LOG).exists()  # the imports printed nothing


def test_an_import_that_starts_a_thread_makes_jobs_start_cold(tmp_path: Path, sweep: Sweep) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    printed = sweep("pass", "seed=1,2", preload='"threaded",')
    told = [line for line in printed.splitlines() if line.startswith("jobs start cold")]
    assert len(told) == 1
    assert "an import started threads" in told[0]
    assert "hydra.launcher.warm=false" in told[0]
    assert printed.splitlines()[-1] == "2 jobs: 2 finished"


def test_a_job_whose_code_has_changed_runs_the_new_code(tmp_path: Path, sweep: Sweep) -> None:
    (tmp_path / "own.py").write_text("VALUE = 1\n")
    body = (
        "import own; Path(f'saw-{config.seed}').write_text(str(own.VALUE)); "
        "Path('own.py').write_text('VALUE = 1000\\n')"
    )
    printed = sweep(body, "seed=1,2", preload='"own", "no_such_module",')
    assert [(tmp_path / f"saw-{seed}").read_text() for seed in (1, 2)] == ["1", "1000"]
    assert "own.py has changed since it was imported" in printed


def test_a_job_of_several_processes_starts_cold(tmp_path: Path, sweep: Sweep) -> None:
    body = "Path(str(config.trainer.devices)).write_text(f'{os.getppid()} {os.environ[\"OMP_NUM_THREADS\"]}')"
    sweep(body, "trainer.devices=1,2", "hydra.launcher.threads=4")
    (warm, threads), (cold, halved) = ((tmp_path / devices).read_text().split() for devices in "12")
    assert warm != cold
    assert (threads, halved) == ("4", "2")


@pytest.fixture
def parent(tmp_path: Path, repository: Path) -> Iterator[Callable[[str], Forked]]:
    """Return what forks a job of this program from a parent that has imported nothing."""
    script, log = tmp_path / "job.py", tmp_path / LOG
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    warm = WarmParent([sys.executable, str(script)], [], environment, str(tmp_path), log)

    def fork(program: str, folder: Path = tmp_path) -> Forked:
        script.write_text(program)
        while not warm.settled():
            time.sleep(0.01)
        return warm.fork(
            [sys.executable, str(script), "a=1"], environment, str(tmp_path), folder / "output.log"
        )

    yield fork
    warm.close()


def code_of(job: Forked) -> int:
    deadline = time.monotonic() + 60
    while (code := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


@pytest.mark.parametrize(
    ("program", "code", "output"),
    [
        ("import sys; print(sys.argv[1:]); sys.exit(3)", 3, "['a=1']\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import signal, os; os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
        ("import atexit; atexit.register(print, 'last')", 0, "last\n"),
    ],
)
def test_how_a_job_ended_is_known(
    parent: Callable[..., Forked], tmp_path: Path, program: str, code: int, output: str
) -> None:
    assert code_of(parent(program)) == code
    assert (tmp_path / "output.log").read_text() == output


def test_a_log_that_cannot_be_written_is_told_as_a_cold_start_tells_it(
    parent: Callable[..., Forked], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/output\.log"):
        parent("pass", folder=tmp_path / "nowhere")
    assert code_of(parent("pass")) == 0


def test_jobs_of_a_parent_that_is_killed_are_ended_and_the_next_start_cold(
    tmp_path: Path, repository: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, time; print(os.getppid(), flush=True); time.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    words = [sys.executable, str(script)]
    command = Command(words, environment, str(tmp_path), tmp_path / "output.log", own=set(), alone=True)
    starter = Starter(command, [], tmp_path)
    told: list[str] = []
    while not starter.ready():
        time.sleep(0.01)
    job = starter.start(command, told.append)
    assert isinstance(job, Forked)
    while not (printed := (tmp_path / "output.log").read_text()):
        time.sleep(0.01)
    os.kill(int(printed), signal.SIGKILL)
    assert code_of(job) == -signal.SIGTERM  # from the kernel: it may save
    script.write_text("pass")
    for _ in range(2):
        cold = starter.start(command, told.append)
        assert isinstance(cold, subprocess.Popen)
        assert cold.wait(60) == 0
    assert len(told) == 1
    starter.close()


def test_another_environment_starts_cold(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("pass")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "MINE": "1"}

    def command(**changed: str) -> Command:
        words = [sys.executable, str(script)]
        return Command(
            words, {**environment, **changed}, str(tmp_path), tmp_path / "log", own={"MINE"}, alone=True
        )

    starter = Starter(command(), [], tmp_path)
    while not starter.ready():
        time.sleep(0.01)
    told: list[str] = []
    assert code_of(starter.start(command(MINE="2"), told.append)) == 0  # type: ignore[arg-type]
    assert told == []
    cold = starter.start(command(OMP_NUM_THREADS="2"), told.append)
    assert isinstance(cold, subprocess.Popen)
    assert cold.wait(60) == 0
    assert "not all have the same OMP_NUM_THREADS" in told[0]
    starter.close()
    with pytest.raises(Unfit, match="ended"):
        starter._fork(command())


def test_what_is_imported_is_what_programs_and_targets_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "PRELOAD", ("a.b",), raising=False)
    found = modules_of("__main__", [{"x": {"_target_": "c.d.E", "y": {"_target_": "f.g"}}}])
    assert [name for name in found if name[0] in "acf" and not name.startswith("cxr")] == ["a.b", "c.d", "f"]
