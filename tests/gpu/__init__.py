"""Checks that need a real TensorRT on a real GPU, run by hand; ``test_*`` need neither."""
