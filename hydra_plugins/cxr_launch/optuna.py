"""`hydra/sweeper=optuna`: a search over hyper-parameters."""

from __future__ import annotations

import cxr.launch.search as implementation


class OptunaSweeper(implementation.OptunaSweeper):
    """See cxr/launch/search.py. Hydra finds a plugin by the module in which its class is made."""
