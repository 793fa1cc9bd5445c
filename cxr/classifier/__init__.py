"""Classifiers: images in [-1, 1] in, logits out. They know no labels, losses or optimisers."""
