"""Generators and discriminators: networks only, they know nothing of losses or optimisers."""
