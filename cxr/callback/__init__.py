"""What watches a training: checkpoints, logs, sample grids, scores."""
