"""How a launcher on this machine starts its jobs: forked from a warm parent where that is the same, else cold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cxr.launch.children import Process, start
from cxr.launch.warm import LOG, Unfit, WarmParent, possible

__all__ = ["Command", "Starter"]


class Command:
    """What starts one job.

    Attributes:
        own: names of variables that belong to this job; a library that is imported reads none of them.
        alone: the job is one process. One of several starts the others by its own command, and is started cold.
    """

    def __init__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        log: Path,
        own: set[str],
        alone: bool,
    ) -> None:
        self.words, self.environment, self.cwd, self.log = words, environment, cwd, log
        self.own, self.alone = own, alone

    @property
    def program(self) -> list[str]:
        """Its words without options and overrides."""
        return list(self.words[: 3 if self.words[1] == "-m" else 2])

    @property
    def shared(self) -> dict[str, str]:
        """Its environment without what is its own."""
        return {name: value for name, value in self.environment.items() if name not in self.own}


class Starter:
    """Starts jobs, and says once, by `tell`, why some start cold.

    The warm parent is started in the environment of the first job, and forks jobs that have the same but for their own
    variables: so a library that read it at import has read what it would have read in the job.
    """

    def __init__(self, first: Command, modules: Sequence[str], folder: Path) -> None:
        """Start the warm parent; its log is in `folder`."""
        self._shared, self._program, self._cwd = first.shared, first.program, first.cwd
        self._parent: WarmParent | None = None
        self._told = False
        if problem := possible():
            self._problem = problem
            return
        self._problem = ""
        try:
            self._parent = WarmParent(first.program, modules, first.shared, first.cwd, folder / LOG)
        except OSError as error:
            self._problem = str(error)

    def ready(self) -> bool:
        """Look whether a job can be started now: not while the warm parent still imports."""
        return self._parent is None or self._parent.settled()

    def close(self) -> None:
        """End the warm parent; its jobs have ended."""
        if self._parent is not None:
            self._parent.close()
        self._parent, self._problem = None, self._problem or "the launcher has ended"

    def start(self, command: Command, tell: Callable[[str], None]) -> Process:
        """Start a job.

        Raises:
            OSError: it cannot be started.
        """
        if not command.alone:
            return start(command.words, command.environment, command.cwd, command.log)
        try:
            return self._fork(command)
        except Unfit as why:
            if not self._told:
                tell(
                    f"jobs start cold, each a new interpreter: {why}; hydra.launcher.warm=false is that from the start"
                )
            self._told = True
        return start(command.words, command.environment, command.cwd, command.log)

    def _fork(self, command: Command) -> Process:
        if self._parent is None or self._problem:
            raise Unfit(self._problem)
        if (command.program, command.cwd) != (self._program, self._cwd):
            raise Unfit("another program or folder than the first job's")
        if command.shared != self._shared:
            names = {name for name, _ in command.shared.items() ^ self._shared.items()}
            raise Unfit(f"not all have the same {', '.join(sorted(names))}")
        return self._parent.fork(command.words, command.environment, command.cwd, command.log)
