"""`hydra/sweeper=grid`: every combination of what was swept."""

from __future__ import annotations

import cxr.launch.grid as implementation


class GridSweeper(implementation.GridSweeper):
    """See cxr/launch/grid.py. Hydra finds a plugin by the module in which its class is made."""
