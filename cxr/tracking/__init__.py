"""Weights & Biases: training, synthetic sets and evaluations as runs of one project, tied together by what they used.

Nothing is known here alone: whatever is sent is also a file of the run's or the set's folder (docs/wandb.md).
"""
