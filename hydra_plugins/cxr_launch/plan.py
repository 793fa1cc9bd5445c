"""`hydra/launcher=plan`: what a sweep would run; nothing is started."""

from __future__ import annotations

import cxr.launch.plan as implementation


class PlanLauncher(implementation.PlanLauncher):
    """See cxr/launch/plan.py. Hydra finds a plugin by the module in which its class is made."""
