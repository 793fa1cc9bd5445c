"""What a record says of a training: its last epoch, and what is not its experiment's recipe."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import open_dict

from cxr.config import plain
from cxr.mistakes import conf_dir
from cxr.script.history import departures, training_facts


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = GlobalHydra.instance().config_loader().load_configuration(
            "train", ["experiment=phantom/cnn"], run_mode=RunMode.RUN
        )  # fmt: skip
        with open_dict(found):
            del found["hydra"]
        yield {**plain(found), "experiment": "phantom/cnn"}


def test_departures_are_those_that_change_the_result(config: dict[str, Any]) -> None:
    assert departures(config) == ()
    changed = deepcopy(config)
    changed["trainer"] |= {"max_epochs": 2, "precision": "32-true", "progress": "none"}
    changed["data"]["n_patients"], changed["arm"] = 60, "synthetic"
    changed["seed"] = changed["mix"]["seed"] = 3  # the one follows the other
    changed["split"]["fold"] = 2
    changed["optimizer"].pop("fused")  # another version's file
    patients = config["data"]["n_patients"]
    assert departures(changed) == (f"data.n_patients: {patients} → 60", "trainer.max_epochs: 12 → 2")
    changed["mix"]["seed"] = 4
    changed["cache"]["size_px"] = changed["classifier"]["image_size_px"] = 32
    size = config["cache"]["size_px"]
    told = departures(changed)
    assert told is not None and told[0] == f"cache.size_px: {size} → 32" and "mix.seed: 3 → 4" in told
    assert not any("image_size_px" in line for line in told)
    assert departures({**config, "experiment": None}) == ()
    assert departures({**config, "experiment": "phantom/gone"}) is None


def test_the_last_epoch_is_read_from_the_log(config: dict[str, Any], tmp_path: Path) -> None:
    manifest = {"n_training_images": 42, "counts": {}}
    limits = {"max_epochs": 12, "limit_train_batches": None}
    assert training_facts(config, tmp_path, manifest) == {**limits, "images": 42}
    log = "step,val/loss,epoch,train/loss,train/accuracy\n3,.5,0,.9,.6\n7,.4,1,.7,.8\n9,,2,,\n"
    (tmp_path / "metrics.csv").write_text(log)
    told = {**limits, "images": 42, "epochs": 2, "loss": 0.7, "accuracy": 0.8}
    assert training_facts(config, tmp_path, manifest) == told
    earlier = {"counts": {"train": {"a": {"real": 3, "synthetic": 2}, "b": {"real": 4}}}}
    assert training_facts(config, tmp_path, earlier)["images"] == 9
