"""`hydra/sweeper=optuna`: a search over hyper-parameters."""

from __future__ import annotations

from hydra.plugins.sweeper import Sweeper

from cxr.launch.later import Later


class OptunaSweeper(Sweeper, metaclass=Later, of="cxr.launch.search"):
    """See cxr/launch/search.py. Hydra finds a plugin by the module in which its class is made."""
