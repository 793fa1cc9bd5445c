"""A small data set and what plants leaks in it: everything that train, generate, curate and evaluate leave, in this process."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import check_config, conf_dir, plain
from cxr.data.phantom import Phantom
from cxr.metric.audit_record import Verdict
from cxr.run import identity, open_run

CLASSES = ("normal", "opacity")
SIZE = 64
TABLE = [
    "data=table", "data.csv=images.csv", "data.classes=[normal,opacity]", "data.patient_column=patient",
    "data.split_column=split", "cache.size_px=64", "trainer.progress=none", "trainer.max_epochs=1",
    "trainer.precision=32-true", "loader.num_workers=0",
]  # fmt: skip
GAN = [
    "task=gan", "train_classes=[normal]", "gan.generator.widths=[8,8,8,8]", "gan.discriminator.widths=[4,4,4]",
    "callback.generative_score=null", "callback.sample_grid=null", "callback.checkpoints.monitor=null",
]  # fmt: skip
EVALUATED: dict[str, Any] = {
    "checkpoint": "last", "threshold": 0.5, "at_specificity": 0.5, "n_resamples": 20, "seed": 0, "accelerator": "cpu",
    "data_root": None,
}  # fmt: skip


def write_images(folder: Path, n_patients: int = 24) -> pd.DataFrame:
    """Write phantoms as PNG and images.csv: two images a patient, a shipped split that keeps patients whole."""
    source = Phantom(n_patients, 2, list(CLASSES), 0.3, SIZE, 0, False)
    rows = []
    (folder / "images").mkdir(parents=True)
    for row in source.index().itertuples():
        number = int(str(row.image_id).rpartition("/")[2])
        path = folder / "images" / f"{number:03d}.png"
        cv2.imwrite(str(path), source.read(str(row.path)))
        patient = number // 2
        part = {0: "test", 1: "test", 2: "val", 3: "val"}.get(patient % 10, "train")
        rows.append((f"images/{path.name}", CLASSES[patient % 2], f"p{patient}", part))
    table = pd.DataFrame(rows, columns=["path", "label", "patient", "split"])
    table.to_csv(folder / "images.csv", index=False)
    return table


def composed(program: str, *overrides: str) -> Any:
    """Return the configuration that a command line means, checked at the door."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(program, list(overrides))
    check_config(config)
    return config


def train(name: str, *overrides: str) -> None:
    """What train.py does."""
    from cxr.script.fit import fit

    values = plain(composed("train", *TABLE, "split=official", *overrides))
    with open_run(Path("runs"), name, values, identity(values)) as run:
        fit(run)


def generate(run: str, n: int, *overrides: str) -> None:
    """What generate.py does."""
    job = importlib.import_module("cxr.script.generate").job
    job(composed("generate", f"run={run}", f"n={n}", "review=false", "accelerator=cpu", *overrides))


def evaluate(name: str, **changed: Any) -> None:
    """What evaluate.py does with a run."""
    from cxr.script.predict import evaluate_run

    evaluate_run(Path("runs") / name, **{**EVALUATED, **changed})


def audit(name: str) -> dict[str, Verdict]:
    """What evaluate.py audit=… finds, by question."""
    from cxr.script.audit import audit_run

    return {
        one.question: one for one in audit_run(Path("runs") / name, data_root=None, share_ids="hashed")[1]
    }


def edit_config(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the config.yaml that a run left."""
    path = Path("runs") / name / "config.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))


def leaks(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Return the verdicts that are LEAK."""
    return {question: one for question, one in verdicts.items() if one.answer == "LEAK"}


def planted_table(table: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Add one leak of each kind to a table: a patient, a file under another name, a JPEG of a test image.

    Returns the table and the offending paths by kind; writes the copies below `folder`.
    """
    test = table[table["split"] == "test"]["path"].tolist()
    copy, jpeg = "images/copy.png", "images/again.jpg"
    (folder / copy).write_bytes((folder / test[0]).read_bytes())
    image = np.asarray(cv2.imread(str(folder / test[2]), cv2.IMREAD_GRAYSCALE))
    cv2.imwrite(str(folder / jpeg), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    more = pd.DataFrame(
        [(copy, "normal", "q1", "train"), (jpeg, "normal", "q2", "train")], columns=list(table.columns)
    )
    changed = pd.concat([table, more], ignore_index=True)
    both = changed.index[changed["patient"] == changed.loc[changed["path"] == test[-1], "patient"].iloc[0]]
    changed.loc[both[0], "split"] = "train"
    return changed, {"patient": str(changed.loc[both[0], "path"]), "file": copy, "near": jpeg}
