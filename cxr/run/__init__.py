"""The run folder: its name and identity, who may write in it, and what its manifest says."""

from __future__ import annotations

from cxr.run.finished import finished_run, model_key
from cxr.run.folder import POINTER, SWEEP, Run, State, holder, is_primary, open_run, read_config, read_status
from cxr.run.naming import config_hash, default_name, differences, identity, machine_values
from cxr.run.planned import PlannedRun, planned_run
from cxr.run.provenance import git_state, library_versions, manifest

__all__ = [
    "POINTER",
    "SWEEP",
    "PlannedRun",
    "Run",
    "State",
    "config_hash",
    "default_name",
    "differences",
    "finished_run",
    "git_state",
    "holder",
    "identity",
    "is_primary",
    "library_versions",
    "machine_values",
    "manifest",
    "model_key",
    "open_run",
    "planned_run",
    "read_config",
    "read_status",
]
