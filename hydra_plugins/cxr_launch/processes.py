"""`hydra/launcher=processes`: every job of a sweep in a process of its own."""

from __future__ import annotations

import cxr.launch.processes as implementation


class ProcessLauncher(implementation.ProcessLauncher):
    """See cxr/launch/processes.py. Hydra finds a plugin by the module in which its class is made."""
