"""A search over hyper-parameters: its space, its study on disk, and what a running trial tells it. Imports no torch."""
