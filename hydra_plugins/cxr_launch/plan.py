"""`hydra/launcher=plan`: what a sweep would run; nothing is started."""

from __future__ import annotations

from hydra.plugins.launcher import Launcher

from cxr.launch.later import Later


class PlanLauncher(Launcher, metaclass=Later, of="cxr.launch.plan"):
    """See cxr/launch/plan.py. Hydra finds a plugin by the module in which its class is made."""
