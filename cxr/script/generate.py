"""generate: make a synthetic set from a trained GAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from cxr.config import build, plain, run_app
from cxr.errors import UserError, did_you_mean
from cxr.files import below

__all__ = ["generate", "main"]


def generate(
    *,
    run: str,
    name: str | None,
    n: int,
    seed: int,
    checkpoint: Literal["last", "best"],
    weights: Literal["ema", "raw"],
    curation: Literal["none", "last_fraction"],
    fraction: float,
    truncation: float | None,
    block: int,
    precision: Literal["float32", "bfloat16"],
    export: Literal["png", "none"],
    review: bool,
    explore: bool,
    share_ids: Literal["hashed", "plain"],
    data_root: Path | None,
    unfinished: Literal["refuse", "allow"],
    accelerator: Literal["auto", "cpu", "gpu"],
    runs_dir: Path,
    synthetic_dir: Path,
) -> None:
    """The schema of conf/generate.yaml; see there for what each key means."""


def job(config: DictConfig) -> None:
    """Load the generator of a run and write its images."""
    values = plain(config)
    run_dir = below(Path(values["runs_dir"]), values["run"], "run")
    target = below(Path(values["synthetic_dir"]), values["name"] or values["run"], "name")
    trained = _trained(run_dir, values["unfinished"])
    checkpoint = run_dir / "checkpoints" / f"{values['checkpoint']}.ckpt"
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint; set checkpoint=last, or train the run again")
    import torch

    from cxr.evaluation.synthesize import load_generators, synthesize
    from cxr.files import read_json

    gans = load_generators(build(trained["gan"]["generator"]), checkpoint, weights=values["weights"])
    facts = read_json(run_dir / "manifest.json")
    gpu = values["accelerator"] == "gpu" or (values["accelerator"] == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if gpu else "cpu")
    real = None
    if values["explore"]:
        from cxr.script.explore import explore_set, real_images

        real = real_images(run_dir, trained, Path(values["data_root"]) if values["data_root"] else None)
    made = synthesize(
        target,
        gans,
        n={gan.label: values["n"] for gan in gans},
        device=device,
        trained_on=facts["trained_on"],
        split_fingerprint=facts["split_fingerprint"],
        near=_fingerprints(run_dir, facts),
        **{
            k: values[k]
            for k in ("seed", "curation", "fraction", "truncation", "block", "precision", "export")
        },
    )
    classes = ", ".join(gan.label for gan in gans)
    look, also = made.path / "grid.png", ""
    if real is not None:
        page = explore_set(
            made, gans, real, runs_dir=run_dir.parent, share_ids=values["share_ids"], device=device
        )
        also = f" and {page}, which holds real radiographs"
    if values["review"]:
        from cxr.evaluation.review import write_review

        look = write_review(made)[0]
    if values.get("logger") is not None:
        from cxr.tracking.generation import log_set

        log_set(build(values["logger"]), run_dir, made)
    print(f"{made.path}: {len(made.index)} images of {classes}, {made.images.shape[1]} px, after {gans[0].g_steps} steps of G; "
          f"look at {look}{also}")  # fmt: skip


def _fingerprints(run_dir: Path, facts: dict[str, Any]) -> Path | None:
    """Return the file of the fingerprints that a GAN run left; None where it left none, or another lies there now."""
    from cxr.data.synthetic import NEAR_FILE
    from cxr.files import file_sha256

    named, file = (facts.get("near_duplicates") or {}).get("sha256"), run_dir / NEAR_FILE
    return file if named and file.is_file() and file_sha256(file) == named else None


def _trained(run_dir: Path, unfinished: Literal["refuse", "allow"]) -> dict[str, Any]:
    """Return the configuration of a GAN run that is finished, or far enough for whoever allows that."""
    from cxr.run import read_config, read_status

    if not (run_dir / "status.json").is_file():
        known = sorted(p.parent.name for p in run_dir.parent.glob("*/status.json"))
        raise UserError(
            f"run: nothing below {run_dir.parent} is called '{run_dir.name}'{did_you_mean(run_dir.name, known)}"
        )
    status = read_status(run_dir)
    if status["state"] != "finished" and unfinished == "refuse":
        raise UserError(f"{run_dir}: this run is {status['state']}, expected finished; run its train command again, "
                        "or set unfinished=allow to use its last checkpoint")  # fmt: skip
    config = read_config(run_dir)
    if not isinstance(config.get("gan"), dict):
        raise UserError(f"{run_dir}: not a GAN run; set run=… to one of task=gan or task=acgan")
    return config


def main() -> None:
    """Console script `cxr-generate`."""
    run_app("generate", job)


if __name__ == "__main__":
    main()
