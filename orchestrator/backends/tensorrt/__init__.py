"""TensorRT: a worker file for its own interpreter, and what plans, checks and audits for it."""
