"""What is learnt: LightningModules, one per kind of training."""
