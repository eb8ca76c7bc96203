"""What turns a PyTorch module into ONNX: a module for each exporter, and checks."""
