"""`hydra/launcher=processes`: every job of a sweep in a process of its own."""

from __future__ import annotations

from hydra.plugins.launcher import Launcher

from cxr.launch.later import Later


class ProcessLauncher(Launcher, metaclass=Later, of="cxr.launch.processes"):
    """See cxr/launch/processes.py. Hydra finds a plugin by the module in which its class is made."""
