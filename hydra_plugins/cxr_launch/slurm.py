"""`hydra/launcher=slurm`: every job of a sweep is a job of a SLURM cluster."""

from __future__ import annotations

import cxr.launch.slurm as implementation


class SlurmLauncher(implementation.SlurmLauncher):
    """See cxr/launch/slurm.py. Hydra finds a plugin by the module in which its class is made."""
