"""PyTorch modules: made by a factory, filled from a checkpoint, called by name."""
