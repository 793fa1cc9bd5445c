"""How the jobs of a sweep are started. Hydra imports this at every start: no torch here."""
