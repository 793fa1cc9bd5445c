"""`hydra/sweeper=grid`: every combination of what was swept."""

from __future__ import annotations

from hydra.plugins.sweeper import Sweeper

from cxr.launch.later import Later


class GridSweeper(Sweeper, metaclass=Later, of="cxr.launch.grid"):
    """See cxr/launch/grid.py. Hydra finds a plugin by the module in which its class is made."""
