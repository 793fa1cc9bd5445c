"""What a score's record says of the diversity of a synthetic set."""

from __future__ import annotations

import json

import numpy as np

from cxr.evaluation.diversity import diversity_record


def test_a_class_of_one_image_is_named_among_others_that_are_well() -> None:
    rng = np.random.default_rng(0)
    real, made = (
        np.kron(rng.integers(0, 256, (90, 4, 4)), np.ones((8, 8), int)).astype(np.uint8) for _ in range(2)
    )
    classes = np.arange(90) % 3
    record = diversity_record((real, classes), (made, classes), n_pairs=100, seed=0)
    assert record is not None and record["collapsed"] is None
    assert record["msssim"]["name"] == "msssim_pairs45_scales2_window11"  # as many as 90 images make
    assert record["msssim"]["real"]["n_pairs"] == record["near_duplicates"]["synthetic"]["n_pairs"] == 45
    made[classes == 1] = made[1]
    record = diversity_record((real, classes), (made, classes), n_pairs=100, seed=0)
    assert record is not None
    assert record["collapsed"].startswith("15 of 45 pairs of generated images are near-duplicates (33 %,")
    assert record["near_duplicates"]["synthetic"]["value"] == 15 / 45
    assert record["msssim"]["synthetic"]["value"] > record["msssim"]["real"]["value"]
    json.dumps(record)


def test_too_few_images_have_no_diversity() -> None:
    images = np.zeros((3, 32, 32), np.uint8)
    one, other = (images, np.array([0, 1, 2])), (images, np.array([0, 0, 0]))
    assert diversity_record(one, other, n_pairs=10, seed=0) is None
