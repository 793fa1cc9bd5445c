"""GANs on few radiographs, compared: what docs/results/gans.md tells, made by the programs a user types.

    python -m benchmarks.gans data=FOLDER work=FOLDER             trains, generates, classifies: hours; again: goes on
    python -m benchmarks.gans data=FOLDER work=FOLDER report=true what is there, scored, and the page

1. Equal time: Talukdar's DCGAN (one a class), CovidGAN's AC-GAN, `strong` and the diffusion baseline learn from the same
   images at 64 px, each for MINUTES of wall time on one thread, with SEEDS seeds.
2. Downstream: Talukdar's CNN learns from their images alone, and from real images with theirs, beside real images alone
   and real images repeated.
3. Fewer images: the same three arms with 50, 100, 200, 500 and all real images; `strong` learns from as few.

JOBS commands run at a time, each on one thread. A command that has ended well is not run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ONE_THREAD

__all__ = ["LOW", "METHODS", "SEEDS", "main"]

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
MINUTES = 3.0
JOBS = 2
SIDE_PX = 64
N_MADE = 1000  # images of each class in a set
N_TRAIN = {"NORMAL": 1140, "PNEUMONIA": 3077}  # the split's training part
LOW = (50, 100, 200, 500)
SEEN_GAN = 19_200  # images shown to a GAN of few images
SEEN_CNN, SEEN_FEW = 12_000, 8_000  # to a CNN; to one of few images
METHODS = {
    "talukdar": SEEDS,
    "covidgan": SEEDS,
    "strong": SEEDS,
    "diffusion": SEEDS[:1],
}  # and with which seeds
SPLIT = ("data=pneumonia", "split=patient", "split.val=0.08", "split.test=0.2", "split.seed=0")


@dataclass(frozen=True)
class Command:
    """One program: done where its marker is there."""

    name: str
    words: tuple[str, ...]


def limits(n: int) -> dict[str, int]:
    """Return how many images of each class n are, in the shares of the training part."""
    normal = round(n * N_TRAIN["NORMAL"] / sum(N_TRAIN.values()))
    return {"NORMAL": normal, "PNEUMONIA": n - normal}


def told(counts: dict[str, int]) -> str:
    """Return counts as Hydra reads them."""
    return "{" + ", ".join(f"{name}: {n}" for name, n in counts.items()) + "}"


def gan(name: str, seed: int, *words: str) -> Command:
    """Return the training of a GAN; nothing is scored meanwhile, so that all of its time is training."""
    quiet = (
        "callback.generative_score=null",
        "callback.sample_grid=null",
        "callback.checkpoints.monitor=null",
    )
    return Command(name, ("train.py", *words, f"name={name}", f"seed={seed}", *quiet))


def equal_time(data: str) -> Iterator[Command]:
    """Yield the GANs of part 1."""
    from_data = f'data.root="{data}"'
    networks = ("gan.generator", "gan.discriminator")
    square = (f"cache.size_px={SIDE_PX}", *(f"{name}.image_size_px={SIDE_PX}" for name in networks))
    total = sum(N_TRAIN.values())
    for seed in SEEDS:
        for label, experiment in (("PNEUMONIA", "talukdar/gan"), ("NORMAL", "talukdar/gan_normal")):
            share = N_TRAIN[label] / total  # the time of one conditional GAN, divided as the images are
            time_given = _minutes(MINUTES * share)
            yield gan(f"talukdar-{label}-{seed}", seed, f"experiment={experiment}", from_data, time_given)
        yield gan(f"covidgan-{seed}", seed, *SPLIT, from_data, "task=acgan", "gan=covidgan", *square,
                  "loader.batch_size=64", _minutes(MINUTES))  # fmt: skip
        yield gan(f"strong-{seed}", seed, "experiment=strong/pneumonia", from_data, _minutes(MINUTES))
        if seed in METHODS["diffusion"]:
            yield gan(
                f"diffusion-{seed}",
                seed,
                "experiment=strong/diffusion_pneumonia",
                from_data,
                _minutes(MINUTES),
            )


def fewer_images(data: str) -> Iterator[Command]:
    """Yield the GANs of part 3."""
    for n in LOW:
        steps = n // 32
        for seed in SEEDS:
            yield gan(f"strong-n{n}-{seed}", seed, "experiment=strong/pneumonia", f'data.root="{data}"',
                      f"mix.limit={told(limits(n))}", f"trainer.max_epochs={SEEN_GAN // (32 * steps)}",
                      "callback.checkpoints.every_n_epochs=100")  # fmt: skip


def sets() -> Iterator[Command]:
    """Yield the synthetic sets."""
    runs = [name for method, seeds in METHODS.items() for seed in seeds for name in made_by(method, seed)]
    runs += [f"strong-n{n}-{seed}" for n in LOW for seed in SEEDS]
    for run in runs:
        yield Command(
            f"set-{run}", ("generate.py", f"run={run}", f"n={N_MADE}", "unfinished=allow", "review=false")
        )


def cnn(name: str, seed: int, n_images: int, seen: int, data: str, *words: str) -> Command:
    """Return the training of a CNN that is shown about `seen` images, whole epochs of n_images, judged at its end."""
    epochs = max(1, round(seen / n_images))
    return Command(name, (
        "train.py", *SPLIT, f'data.root="{data}"', "task=classifier", "classifier=talukdar_cnn",
        f"cache.size_px={SIDE_PX}", f"classifier.image_size_px={SIDE_PX}", "loader.batch_size=32", *words,
        f"name={name}", f"seed={seed}", f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}",
        "callback.checkpoints.monitor=null", f"callback.checkpoints.every_n_epochs={epochs}",
    ))  # fmt: skip


def made_by(method: str, seed: int) -> list[str]:
    """Return the names of the sets of a method and seed."""
    return [f"{method}-{label}-{seed}" for label in N_TRAIN] if method == "talukdar" else [f"{method}-{seed}"]


def classifiers(data: str) -> Iterator[Command]:
    """Yield the CNNs of parts 2 and 3."""
    everything, added = sum(N_TRAIN.values()), dict.fromkeys(N_TRAIN, N_MADE)
    for seed in SEEDS:
        for arm, words in (
            ("real_only", ()),
            ("duplicate_real", ("mix=duplicate_real", f"mix.counts={told(added)}")),
        ):
            n = everything + (2 * N_MADE if words else 0)
            yield cnn(f"cnn-{arm}-{seed}", seed, n, SEEN_CNN, data, f"arm={arm}", *words)
        for method in (name for name, seeds in METHODS.items() if seed in seeds):
            sets = f"synthetic=[{','.join(made_by(method, seed))}]"
            yield cnn(f"cnn-{method}_only-{seed}", seed, 2 * N_MADE, SEEN_CNN, data, f"arm={method}_only", sets,
                      "mix=synthetic_only", "mix.amount=all")  # fmt: skip
            yield cnn(f"cnn-{method}-{seed}", seed, everything + 2 * N_MADE, SEEN_CNN, data, f"arm={method}", sets, "mix=add",
                      f"mix.counts={told(added)}")  # fmt: skip
        for n in LOW:
            limit = f"mix.limit={told(limits(n))}"
            twice = {name: 2 * count for name, count in limits(n).items()}  # two synthetic for each real one
            for arm, words in (
                ("real_only", ("mix=real_only",)),
                ("duplicate_real", ("mix=duplicate_real", f"mix.counts={told(twice)}")),
                ("synthetic", ("mix=add", f"mix.counts={told(twice)}", f"synthetic=[strong-n{n}-{seed}]")),
            ):
                total = n if arm == "real_only" else 3 * n
                yield cnn(f"cnn-n{n}-{arm}-{seed}", seed, total, SEEN_FEW, data, f"arm={arm}", limit, *words)


def judged() -> Iterator[Command]:
    """Yield the evaluations; the page draws its own resamples of what they leave."""
    for seed in SEEDS:
        yield Command(f"evaluate-{seed}", ("evaluate.py", f"runs=[cnn-*-{seed}]", "n_resamples=100"))


def _minutes(minutes: float) -> str:
    seconds = round(60 * minutes)
    return f"trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}"


def run(commands: Sequence[Command], work: Path) -> bool:
    """Run what is not done, JOBS at a time; say whether all are done."""
    (work / "done").mkdir(parents=True, exist_ok=True)
    (work / "logs").mkdir(exist_ok=True)
    left = [one for one in commands if not (work / "done" / f"{one.name}.json").is_file()]

    def one(command: Command) -> bool:
        began = time.time()
        with (work / "logs" / f"{command.name}.txt").open("w", encoding="utf-8") as log:
            words = [sys.executable, str(ROOT / command.words[0]), *command.words[1:]]
            code = subprocess.run(
                words, cwd=work, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log
            ).returncode
        if code == 0:
            facts = {"command": list(command.words), "wall_s": round(time.time() - began, 1)}
            (work / "done" / f"{command.name}.json").write_text(json.dumps(facts), encoding="utf-8")
        print(
            f"{time.strftime('%H:%M:%S')} {command.name}: {'done' if code == 0 else f'exit code {code}'}",
            flush=True,
        )
        return code == 0

    with ThreadPoolExecutor(JOBS) as pool:
        return all(list(pool.map(one, left)))


def main() -> None:
    """Run the parts in order; a part needs the one before it."""
    asked = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if missing := {"data", "work"} - set(asked):
        sys.exit(f"benchmarks.gans: {', '.join(sorted(missing))}: expected data=FOLDER work=FOLDER")
    data, work = asked["data"], Path(asked["work"])
    wanted = asked.get("parts", "low,gans,sets,cnns,judged").split(",")
    parts = {
        "low": fewer_images(data),
        "gans": equal_time(data),
        "sets": sets(),
        "cnns": classifiers(data),
        "judged": judged(),
    }
    only = asked.get("only")
    for name in wanted:
        commands = [one for one in parts[name] if only is None or only in one.name]
        if not run(commands, work):
            sys.exit(f"benchmarks.gans: a command of {name} failed; its log is below {work / 'logs'}")


if __name__ == "__main__":
    main()
