"""Scores: features → statistics → score, as pure functions."""
