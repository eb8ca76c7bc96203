"""The GPU as PyTorch sees it, and how PyTorch computes in fp32 on it."""

from __future__ import annotations

from typing import Any

import torch

from orchestrator.backends.beside.engine import UnavailableError

Json = dict[str, Any]


def require_gpu(uuid: str) -> None:
    """Check that PyTorch can use a GPU: the one that *uuid* names, where the launcher named one.

    Raises:
        UnavailableError: with the reason.
    """
    if torch.version.cuda is None:
        raise UnavailableError(f"PyTorch {torch.__version__} is a build without CUDA")
    if not torch.cuda.is_available():
        what = f"the GPU {uuid}" if uuid else "no GPU"
        seen = "does not see" if uuid else "sees"
        raise UnavailableError(f"PyTorch {torch.__version__} {seen} {what} on this machine")


def machine() -> Json:
    """Return ``device`` (name), ``uuid`` and ``compute_capability`` of the first visible GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "uuid": f"GPU-{properties.uuid}",
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def set_tf32(on: bool) -> None:
    """Let fp32 convolutions and matrix products use TF32, or not, whatever was set before.

    PyTorch (seen with 2.13) has three generations of this switch, and raises where it finds that
    they disagree; so all are set, oldest first.
    """
    backends: Any = torch.backends
    word = "tf32" if on else "ieee"
    torch.set_float32_matmul_precision("high" if on else "highest")
    backends.cuda.matmul.allow_tf32 = on
    backends.cudnn.allow_tf32 = on
    for switch in (backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn):
        switch.fp32_precision = word


def facts() -> Json:
    """Return how PyTorch computes on the GPU, as it says itself.

    Returns:
        ``tf32``: whether fp32 convolutions and matrix products may use it; ``cudnn_benchmark``:
        whether convolutions are tuned; ``versions`` of PyTorch, CUDA and cuDNN.
    """
    backends: Any = torch.backends
    words = {backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision}
    return {
        "tf32": words != {"ieee"},
        "cudnn_benchmark": backends.cudnn.benchmark,
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": backends.cudnn.version(),
        },
    }
