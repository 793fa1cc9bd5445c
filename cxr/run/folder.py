"""One run folder: its status, and the lock that lets one process write in it.

`runs/<name>/status.json` is the only truth about a run: `running`, `finished`, `failed` or
`interrupted`. It is written atomically and says which process writes; a run that says
`running` while nobody holds its lock was killed, and reads as `interrupted`.

The lock is a POSIX record lock: the kernel drops it with its process, however that ends, so
there is no stale lock to clean, and a forked data-loading worker does not inherit it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cxr.errors import UserError
from cxr.files import read_json, remove_unfinished, write_json, write_text
from cxr.run.naming import config_hash, differences, safe_name
from cxr.share import clean
from cxr.target import check_foreign

__all__ = [
    "POINTER",
    "SWEEP",
    "Run",
    "State",
    "holder",
    "is_primary",
    "load_state",
    "open_run",
    "read_config",
    "read_status",
]

State = Literal["new", "running", "finished", "interrupted", "failed"]

POINTER = "CXR_RUN_POINTER"  # a launcher names a file here, to be told which run its job opened
SWEEP = "CXR_SWEEP"  # a launcher names here the sweep that a job belongs to
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
_held: set[Path] = set()  # runs that this process has; a record lock does not exclude its own process


def is_primary() -> bool:
    """Say whether this process is the one that writes: rank 0, or no distributed job at all."""
    return all(os.environ.get(key, "0") in ("", "0") for key in RANKS)


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration that the run at `path` was trained with.

    Raises:
        UserError: no such run; a file that is no mapping in YAML, or asks for what no run may (see cxr.target).
    """
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"{path}: no such run (it has no config.yaml); give the name of a run that was started"
        )
    file = path / "config.yaml"
    try:
        # YAML's safe loader: a tag that makes an object is an error. Nothing is resolved: ${oc.env:…} stays text.
        config = OmegaConf.to_container(OmegaConf.load(file))
    # AssertionError: OmegaConf's, of a file that is one quoted number
    except (
        YAMLError,
        OmegaConfBaseException,
        UnicodeDecodeError,
        OSError,
        ValueError,
        AssertionError,
    ) as error:
        told = " ".join(str(error).split())[:150] or "no mapping"
        raise UserError(f"{file}: not a run's configuration ({told}); train the run again") from None
    if not isinstance(config, dict):
        raise UserError(
            f"{file}: a {type(config).__name__}, expected a run's configuration; train the run again"
        )
    named = {str(key): value for key, value in config.items()}
    check_foreign(named, file)
    return named


@dataclass
class Run:
    """One run folder, and the right to write in it until `close`.

    As a context manager it closes, and puts an exception that passes through into the status:
    Ctrl-C and SystemExit leave `interrupted`, anything else `failed`. Processes that are not
    `primary` read and write nothing.
    """

    path: Path
    name: str
    state: State
    config: dict[str, Any]
    identity: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)
    primary: bool = True
    _lock: int | None = None
    _began: float = 0.0

    @property
    def config_hash(self) -> str:
        """The hash of the identity, 12 hex digits."""
        return config_hash(self.identity)

    @property
    def metric(self) -> dict[str, float | None]:
        """What a finished run returned, headline first; empty before that."""
        values: dict[str, float | None] = self.status.get("metric") or {}
        headline = self.status.get("headline")
        return {key: values[key] for key in sorted(values, key=lambda key: (key != headline, key))}

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go; not made here."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, the same for every rank; None: begin at the beginning."""
        path = self.checkpoints / "last.ckpt"
        return path if path.is_file() else None

    def start(self) -> None:
        """Say that this process works on the run now, and keep the configuration beside it."""
        self._began = time.monotonic()
        if self.primary:
            for folder in (self.path, self.checkpoints):
                remove_unfinished(folder)
            write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.config)))
        attempts = int(self.status.get("attempts", 0)) + 1
        self._write(
            "running", attempts=attempts, started=_now(), ended=None, error=None, metric=None, headline=None
        )

    def finish(self, metric: Mapping[str, float | None], *, stopped: str | None = None) -> None:
        """Say that the run is whole, and what skipping it returns: `metric`, headline first, NaN as None.

        stopped: why it ended before its last epoch, if it did; kept in the status.
        """
        values = {key: v if v is None or math.isfinite(v) else None for key, v in metric.items()}
        headline = next(iter(values), None)
        self._write(
            "finished", metric=values, headline=headline, stopped=stopped, ended=_now(), wall_s=self.wall_s
        )

    def fail(self, error: BaseException) -> None:
        """Say that the run broke, with the first line of the error; Ctrl-C counts as an interruption."""
        state: State = "interrupted" if isinstance(error, (KeyboardInterrupt, SystemExit)) else "failed"
        first = str(clean((str(error).strip().splitlines() or [""])[0]))
        text = f"{type(error).__name__}: {first}" if first else type(error).__name__
        if isinstance(error, KeyboardInterrupt) and first:
            text = first  # "stopped by SIGTERM"
        self._write(state, error=text, ended=_now(), wall_s=self.wall_s)

    def close(self) -> None:
        """Give the run back; the status stays as it is."""
        if self._lock is not None:
            _held.discard(self.path.resolve())
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is not None and self.state == "running":
                self.fail(error)
        finally:  # the status may meet the same full disk
            self.close()

    @property
    def wall_s(self) -> float:
        """Seconds so far: this attempt and those that ended by themselves (a killed one tells no time)."""
        now = time.monotonic() - self._began if self.state == "running" else 0.0
        return round(float(self.status.get("wall_s") or 0.0) + now, 3)

    def _write(self, state: State, **changed: Any) -> None:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "updated": _now()}
        what = {
            "schema": 1,
            "name": self.name,
            "config_hash": self.config_hash,
            "identity": clean(self.identity),
        }
        self.status = {**self.status, **who, **what, **changed, "state": state}
        if self.primary:
            write_json(self.path / "status.json", self.status)
        self.state = state


def open_run(runs_dir: Path, name: str, config: Mapping[str, Any], identity: Mapping[str, Any]) -> Run:
    """Open `runs_dir/name` for writing, or a finished run to be skipped (`state`, `metric`).

    `config` and `identity` are plain containers. The state is `new`, `finished`, `interrupted`
    (go on from `last_checkpoint`) or `failed` (try again, from there too).

    Raises:
        UserError: the name belongs to another identity (told key by key), or a live process has it.
    """
    path = runs_dir / name
    run = Run(path, name, "new", dict(config), dict(identity), primary=is_primary())
    run.state = load_state(run)
    if run.primary and run.state != "finished":
        path.mkdir(parents=True, exist_ok=True)
        run._lock = _take(path)
        try:
            run.state = load_state(run)  # another process may have finished it in between
        except BaseException:
            run.close()
            raise
        if run.state == "finished":
            run.close()
    pointer = os.environ.get(POINTER)
    if pointer and run.primary and not Path(pointer).exists():
        write_json(Path(pointer), {"run": str(path.resolve()), "state": run.state})
    return run


def read_status(path: Path) -> dict[str, Any]:
    """Return the status of the run at `path`, with its `state` as it is now; locks nothing.

    Raises:
        UserError: there is no such run.
    """
    if not (path / "status.json").is_file():
        raise UserError(f"{path}: no such run (it has no status.json); give the name or folder of a run")
    status = _status(path)
    if status["state"] == "running" and path.resolve() not in _held:
        try:
            os.close(_acquire(path))
        except (BlockingIOError, PermissionError):  # it lives, or is not ours to ask
            return status
        status = _status(path)  # it may have ended while we asked
        if status["state"] == "running":
            status["state"] = "interrupted"
    return status


def _status(path: Path, whole: bool = False) -> dict[str, Any]:
    """Read the status.json of the run at `path`; one that no run wrote is a `UserError`. `whole`: with its identity."""
    file = path / "status.json"
    status = read_json(file)
    if not isinstance(status, dict):
        raise UserError(
            f"{file}: a {type(status).__name__}, expected the status of a run; delete it and train the run again"
        )
    for key, problem in {
        "state": status.get("state") not in get_args(State)[1:],
        "identity": not isinstance(status.get("identity", None if whole else {}), dict),
        "metric": not _is_metric(status.get("metric")),
        "headline": status.get("headline")
        not in [None, *(scores if isinstance(scores := status.get("metric"), dict) else {})],
        "attempts": type(status.get("attempts", 0)) is not int,
        "wall_s": not _is_number(status.get("wall_s")),
    }.items():
        if problem:
            told = f"is {str(status[key])[:60]!r}" if key in status else "is missing"
            raise UserError(f"{file}: '{key}' {told}, which no run writes; delete it and train the run again")
    return status


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_metric(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def load_state(run: Run) -> State:
    """Read the status that an earlier process left; refuse another identity.

    A run that ended before its first checkpoint (wrong data, say) has nothing to lose: the corrected
    command takes it over.
    """
    if safe_name(run.name) != run.name or not run.name.strip("."):
        raise UserError(f"name: got {run.name!r}, expected letters, digits and . _ + - only; set name=…")
    if not (run.path / "status.json").is_file():
        return "new"
    run.status = _status(run.path, whole=True)
    ours = json.loads(
        json.dumps(run.identity, default=str)
    )  # as in the file: tuples are lists, paths strings
    changed = differences(clean(run.status["identity"]), clean(ours))  # of whoever's home
    if changed and run.status["state"] != "finished" and run.last_checkpoint is None:
        run.status = {}
        return "new"
    if changed:
        raise UserError(
            f"{run.path}: this run has another configuration ({'; '.join(changed)}); set another name=…"
        )
    state: State = run.status["state"]
    return "interrupted" if state == "running" else state


def _acquire(path: Path) -> int:
    """Lock the run at `path` and return the handle; BlockingIOError when another process has it."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, (BlockingIOError, PermissionError)):  # POSIX allows either
            raise BlockingIOError from None
        raise UserError(
            f"{path}: its file system has no locks ({error.strerror}); set runs_dir=… elsewhere"
        ) from None
    return handle


def holder(path: Path) -> str:
    """Say which process has the run at `path`, or had it last, in the words that it left in the lock."""
    lock = path / ".lock"
    return (lock.read_text(encoding="utf-8") if lock.is_file() else "") or "another process"


def _take(path: Path) -> int:
    """Lock the run for this process and leave its name in the lock; UserError names a live holder."""
    who = "this very process"
    for _ in range(3 if path.resolve() not in _held else 0):
        try:
            handle = _acquire(path)
        except BlockingIOError:
            who = holder(path)
            time.sleep(0.05)  # `read_status` elsewhere holds it for a moment
            continue
        _held.add(path.resolve())
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {_now()}".encode(), 0)
        return handle
    raise UserError(f"{path}: in use by {who}; wait for it or stop it, or set another name=…")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
