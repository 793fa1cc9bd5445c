"""A run with features computed once, through the program's own path: the same log, the same identity, one line said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr import trainer_rules
from cxr.config import check_config, conf_dir, plain
from cxr.files import write_json
from cxr.run import config_hash, identity, open_run
from cxr.script import fit as fit_module
from cxr.script.fit import fit

SMALL = [
    "classifier=backbone", "classifier.name=test_resnet", "classifier.pretrained=false", "classifier.head=linear",
    "data.n_patients=40", "cache.size_px=32", "trainer.max_epochs=2", "trainer.progress=none", "trainer.precision=32-true",
]  # fmt: skip


def configured(*overrides: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*SMALL, *overrides])
    check_config(config)
    return plain(config)


def test_the_log_is_that_of_a_training_on_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = {}
    for mode in ("auto", "off"):
        config = configured(f"features={mode}")
        with open_run(Path("runs"), mode, config, identity(config)) as run:
            fit(run)
        said[mode] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features:")]
    assert len(said["auto"]) == 1 and "and none in 2 epochs" in said["auto"][0] and not said["off"]
    kept, plain_log = (Path(f"runs/{mode}/metrics.csv").read_text() for mode in ("auto", "off"))
    assert kept == plain_log and len(kept.splitlines()) == 3
    manifests = [json.loads(Path(f"runs/{mode}/manifest.json").read_text()) for mode in ("auto", "off")]
    [store] = manifests[0]["features"]["stores"]
    assert (tmp_path / "cache" / "frozen" / store / "rows.bin").is_file() and manifests[1]["features"] is None
    assert {one["precision"] for one in manifests} == {"32-true"}


def test_only_views_are_another_run() -> None:
    base = configured()
    known = config_hash(identity(base))
    assert config_hash(identity({**base, "features": "off"})) == known
    assert config_hash(identity({k: v for k, v in base.items() if k != "features"})) == known, (
        "of before the key"
    )
    assert config_hash(identity({**base, "features": 3})) != known


@pytest.mark.parametrize(
    ("features", "frozen", "augment", "told"),
    [(0, True, "x.Recipe", "set features=auto"), (2, False, "x.Recipe", "classifier.frozen=true"),
     (2, True, "cxr.data.augment.none", "are all the same"), (2, True, "x.Recipe", None), ("auto", False, "x.none", None)],
)  # fmt: skip
def test_views_are_of_augmented_images_and_a_frozen_network(
    features: Any, frozen: bool, augment: str, told: str | None
) -> None:
    found = trainer_rules.feature_views(
        {"features": features, "classifier": {"frozen": frozen}, "augment": {"_target_": augment}}
    )
    assert (told is None and found is None) or (told is not None and found is not None and told in found)


def test_a_run_goes_on_in_the_precision_it_was_begun_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun where bfloat16 is native, gone on where it is not."""
    monkeypatch.setattr(fit_module, "native_precision", lambda *_: ("32-true", "this CPU does not"))
    trainer = {"precision": "auto", "accelerator": "cpu", "devices": 1}
    run: Any = SimpleNamespace(config={"trainer": trainer}, path=tmp_path, last_checkpoint=None, primary=True)
    assert fit_module._precision(run) == "32-true"
    assert "precision: 32-true, since this CPU does not" in capsys.readouterr().out
    run.last_checkpoint = tmp_path / "last.ckpt"
    write_json(tmp_path / "manifest.json", {"precision": "bf16-mixed"})
    assert fit_module._precision(run) == "bf16-mixed"
    trainer["precision"] = "32-true"
    assert fit_module._precision(run) == "32-true", "what is named is meant"
