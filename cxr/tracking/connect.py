"""Begins a W&B run: online when logged in, else offline, its own and no other's, without facts about the user.

wandb would record the host's user, the command line, the interpreter's path, installed packages and the terminal's
output. Paths under a home folder are in most of these, so all are off; the versions, git revision and device of a
run come from its manifest.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr.errors import UserError
from cxr.share import clean
from cxr.tracking.identity import JobType, remember, run_id
from cxr.tracking.settings import Wandb

if TYPE_CHECKING:
    from wandb import Run

__all__ = ["begin", "tracked"]

Mode = Literal["online", "offline", "disabled"]
PATIENCE_S = 60.0  # for W&B, which has just answered, to take a run
STAGING = "WANDB_DATA_DIR"
_told: set[str] = set()
_staging = ""  # what we have put into STAGING; another value is the user's


def begin(
    settings: Wandb,
    *,
    folder: Path,
    kind: JobType,
    key: str,
    group: str | None,
    tags: list[str],
    config: Mapping[str, Any],
) -> Run:
    """Start (or go on in) the W&B run of a stage, whose files are below `folder`/wandb.

    Args:
        key: a hash of what the stage is; the same key in the same folder is the same W&B run.

    Raises:
        UserError: W&B does not take the run; or mode=online, and nobody is logged in or W&B does not answer.
    """
    import wandb

    mode, why = _mode(settings)
    _stage_beside(folder)
    who = run_id(folder, kind, key)
    arguments: dict[str, Any] = {
        "id": who,
        "name": clean(folder.name),
        "project": settings.project,
        "entity": settings.entity,
        "group": None if group is None else clean(group),
        "job_type": kind,
        "tags": clean(tags),
        "config": clean(config),
        "dir": str(folder),  # as given: a relative one names no home folder in wandb's own log
        "reinit": "create_new",  # never go on in a run that another job of this process has left open
    }
    try:
        # offline, `resume` does nothing: a second folder of the same id is made, and `wandb sync` joins them
        run = wandb.init(
            **arguments, mode=mode, resume="allow" if mode == "online" else None, settings=_private(mode)
        )
    except wandb.errors.CommError as error:  # it answered, and refused
        raise UserError(
            f"logger.project: W&B does not take the run ({_first_line(error)}); set logger.entity=… and "
            "logger.project=… to one that you may write, or logger.mode=offline"
        ) from None
    where = f"{folder}/wandb/offline-run-*-{who}"
    later = f"; `wandb sync {where}` uploads it" if mode == "offline" else ""
    _say(f"W&B: {run.url}" if mode == "online" else f"W&B: {mode} ({why}){later}")
    here = {"project": settings.project, "entity": settings.entity, "mode": mode}
    remember(folder, kind, clean({"id": who, "key": key, "group": group, **here}))
    return run


@contextmanager
def tracked(run: Run) -> Iterator[Run]:
    """Finish the W&B run in every case: 0 when the block ends well, 1 on any error and on Ctrl-C."""
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


def _stage_beside(folder: Path) -> None:
    """Have wandb keep what is yet to be uploaded beside the run, not in the home folder: the two travel together."""
    global _staging
    if os.environ.get(STAGING, "") in ("", _staging):
        _staging = os.environ[STAGING] = str(folder.resolve() / "wandb")


def _private(mode: Mode) -> Any:
    import wandb

    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=PATIENCE_S,
        quiet=True,
        silent=mode != "online",  # we have said it
        x_disable_meta=True,
        x_save_requirements=False,
    )


def _mode(settings: Wandb) -> tuple[Mode, str]:
    """Return how to run and why; the environment's WANDB_MODE stands above `auto`."""
    asked = os.environ.get("WANDB_MODE", "")
    if settings.mode == "offline":
        return "offline", "logger.mode=offline"
    if settings.mode == "auto" and asked in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE={asked}"
    if settings.mode == "auto" and asked == "disabled":
        return "disabled", f"WANDB_MODE={asked}"
    logged_in, why = _logged_in()
    if logged_in:
        return "online", "logged in"
    if settings.mode == "online":
        raise UserError(f"logger.mode=online: {why}; run `wandb login`, or set logger.mode=auto")
    return "offline", why


def _logged_in() -> tuple[bool, str]:
    """Say whether W&B answers and knows who we are, and why not. A server that is out of reach costs 10 s."""
    import wandb

    try:
        return wandb.login(prompt=False, verify=True), "not logged in"
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        return False, _first_line(error)


def _first_line(error: Exception) -> str:
    return (
        str(clean(str(error).strip().splitlines()[0].rstrip(".")))
        if str(error).strip()
        else type(error).__name__
    )


def _say(line: str) -> None:
    """Print what was not printed before: an evaluation of ten runs says once that it is offline."""
    what = line.partition(";")[0]
    if what not in _told:
        _told.add(what)
        print(line)
