"""A procedural chest: as many "patients" as wanted, no download, with the truth known.

Image n belongs to patient n // images_per_patient; a patient's anatomy and findings are drawn
from (seed, patient), its pose, exposure and noise from (seed, n). So an image is a pure function
of its parameters and n: asking for more patients never changes those there were. For making
software work; a result on phantoms says nothing of radiographs.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr.data.index import LABEL, make_index
from cxr.data.radiograph import Exposure, draw_exposure, rasterise, render
from cxr.data.thorax import FINDINGS, Anatomy, Lesion, draw_anatomy, draw_lesion
from cxr.errors import UserError, did_you_mean
from cxr.files import digest

__all__ = ["CLASSES", "Phantom"]

CLASSES = ("normal", *FINDINGS)
VERSION = 1  # part of every content hash; raise it when a picture changes
PREVALENCE = 0.3  # of each finding, multi-label
# Each round of patients (one of every class) falls into one part: 70/10/20, all three after 3 rounds.
PARTS = ("train", "test", "val", "train", "train", "train", "test", "train", "train", "train")


class Phantom:
    """Rendered chests as index rows, with the finding's box and, on request, its mask.

    Extra columns box_x, box_y, box_w, box_h: the box around the findings in fractions of the
    picture (left, top, width, height), NaN where there is none.
    """

    name = "phantom"
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        n_patients: int,
        images_per_patient: int,
        classes: list[str],
        difficulty: float,
        size_px: int,
        seed: int,
        multi_label: bool,
    ) -> None:
        """Choose how many, which classes in which order, how hard and how large.

        Single-label: patients take the classes in turn. Multi-label: each finding is present
        with probability 0.3 and `normal`, if named, means none of them. `difficulty` in [0, 1]
        makes findings smaller and fainter and the noise stronger.
        """
        for label in classes:
            if label not in CLASSES:
                raise UserError(f"data.classes: '{label}' is not in phantom{did_you_mean(label, CLASSES)}")
        if not classes or len(set(classes)) != len(classes):
            known = ", ".join(CLASSES)
            raise UserError(f"data.classes={classes}: expected at least one of {known}, each once")
        for key, value, least in (
            ("n_patients", n_patients, 1),
            ("images_per_patient", images_per_patient, 1),
            ("size_px", size_px, 16),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UserError(f"data.{key}={value}: expected at least {least}")
        if not 0 <= difficulty <= 1:
            raise UserError(f"data.difficulty={difficulty}: expected a number from 0 (easy) to 1 (hard)")
        self.n_patients, self.images_per_patient, self.size_px = n_patients, images_per_patient, size_px
        self.classes, self.multi_label = list(classes), multi_label
        self.difficulty, self.seed = float(difficulty), seed

    def index(self) -> pd.DataFrame:
        """List the images; boxes come from outlines, nothing is rendered."""
        rows = []
        for n in range(self.n_patients * self.images_per_patient):
            patient = n // self.images_per_patient
            findings = self._findings(patient)
            x, y, w, h = self._box(n)
            present = findings or ["normal"]
            rows.append(
                {
                    "image_id": f"phantom/{n:06d}",
                    **{LABEL + name: float(name in present) for name in self.classes},
                    "patient_id": f"phantom-{patient:05d}",
                    "view": "PA",
                    "source": "phantom",
                    "official_split": PARTS[patient // len(self.classes) % len(PARTS)],
                    "content_hash": self._hash(n),
                    "box_x": x,
                    "box_y": y,
                    "box_w": w,
                    "box_h": h,
                }
            )
        return make_index(rows, self.classes)

    def read(self, path: str) -> npt.NDArray[Any]:
        """Render image `phantom/<n>`: (size_px, size_px) uint8."""
        n = self._number(path)
        body, shot, lesions = self._scene(n)
        return render(body, shot, lesions, self.size_px)

    def boxes(self) -> pd.DataFrame:
        """Return one box per image and finding, for scoring heat maps; from outlines, nothing is rendered.

        Columns: image_id, label, box_x, box_y, box_w, box_h: left, top, width, height as fractions of the picture.
        """
        rows = []
        for n in range(self.n_patients * self.images_per_patient):
            _, shot, lesions = self._scene(n)
            rows += [(f"phantom/{n:06d}", one.name, *_around([one], shot)) for one in lesions]
        return pd.DataFrame(rows, columns=["image_id", "label", "box_x", "box_y", "box_w", "box_h"])

    def mask(self, path: str, finding: str | None = None) -> npt.NDArray[np.bool_]:
        """Return where one finding (None: any) is: (size_px, size_px) bool, all False if absent."""
        n = self._number(path)
        _, shot, lesions = self._scene(n)
        inside = np.zeros((self.size_px, self.size_px), np.bool_)
        for lesion in lesions:
            if finding is None or lesion.name == finding:
                cover = rasterise(lesion.outline, shot.pose, self.size_px)
                inside |= cover >= np.clip(cover.max(), 1, 128)  # a speck keeps its fullest pixel
        return inside

    def _number(self, path: str) -> int:
        head, _, tail = path.partition("/")
        n = int(tail) if head == "phantom" and tail.isdecimal() else -1
        if not 0 <= n < self.n_patients * self.images_per_patient:
            last = self.n_patients * self.images_per_patient - 1
            raise UserError(f"phantom image '{path}'; expected phantom/000000 … phantom/{last:06d}")
        return n

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    def _findings(self, patient: int) -> list[str]:
        if not self.multi_label:
            label = self.classes[patient % len(self.classes)]
            return [] if label == "normal" else [label]
        wanted = [name for name in self.classes if name != "normal"]
        # A stream per name: a further class does not change who has the others.
        streams = [self._rng(1, patient, zlib.crc32(name.encode())) for name in wanted]
        return [name for name, rng in zip(wanted, streams, strict=True) if rng.random() < PREVALENCE]

    def _scene(self, n: int) -> tuple[Anatomy, Exposure, list[Lesion]]:
        patient = n // self.images_per_patient
        body = draw_anatomy(self._rng(0, patient))
        shot = draw_exposure(self._rng(2, n), self.difficulty)
        lesions = [
            draw_lesion(
                name, self._rng(3, patient, zlib.crc32(name.encode())), body, shot.breath, self.difficulty
            )
            for name in self._findings(patient)
        ]
        return body, shot, lesions

    def _box(self, n: int) -> tuple[float, float, float, float]:
        _, shot, lesions = self._scene(n)
        return _around(lesions, shot) if lesions else (float("nan"),) * 4

    def _hash(self, n: int) -> str:
        patient = n // self.images_per_patient
        return digest(
            {
                "phantom": VERSION,
                "seed": self.seed,
                "n": n,
                "patient": patient,
                "findings": self._findings(patient),
                "difficulty": self.difficulty,
                "size_px": self.size_px,
            },
            64,
        )


def _around(lesions: list[Lesion], shot: Exposure) -> tuple[float, float, float, float]:
    """Return left, top, width and height of the box around findings, in fractions of the picture."""
    points = np.concatenate([lesion.outline @ shot.pose[:, :2].T + shot.pose[:, 2] for lesion in lesions])
    low, high = np.clip(points.min(axis=0), 0, 1), np.clip(points.max(axis=0), 0, 1)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
