"""`hydra/launcher=slurm`: every job of a sweep is a job of a SLURM cluster."""

from __future__ import annotations

from hydra.plugins.launcher import Launcher

from cxr.launch.later import Later


class SlurmLauncher(Launcher, metaclass=Later, of="cxr.launch.slurm"):
    """See cxr/launch/slurm.py. Hydra finds a plugin by the module in which its class is made."""
