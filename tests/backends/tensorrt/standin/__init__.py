"""A stand-in for TensorRT and CUDA, so that ``target=tensorrt`` can run where there is no GPU.

No TensorRT runs without a GPU, so this is the one place where tests put something else in its
place, as far out as possible: packages called ``tensorrt`` and ``cuda`` on the ``PYTHONPATH`` of a
real Python, under which the real ``worker.py`` runs unchanged as its own process. An engine is its
ONNX model in a plan of our own make; running it is ONNX Runtime on the CPU; device memory is the
host's, and what a stream is given runs at once, or is recorded while a CUDA graph is captured.

It proves what our side does around TensorRT: planning, keys, locks, processes, files, failures,
refits, reports, and that an engine's answers reach the judge. It proves nothing of TensorRT: its
plans, kernels, numbers, speed, limits of operators and most of its error texts are made up or
copied from recordings of 8.6.0 (``data/``). The inspector writes 8.6's form for every version, and
kernels are named after the flags and types that were asked for, with ``STANDIN_FAULT`` as the only
liar.

Environment of the toolchain's process:

==================  ================================================================================
STANDIN_VERSION     the version it says it is, and whose names it has (default 8.6.1)
STANDIN_DEVICE      JSON over the default device: name, compute_capability, uuid, sms, memory_bytes;
                    a list of such objects for several, which CUDA_VISIBLE_DEVICES chooses from
STANDIN_FAULT       comma-separated; see :mod:`tests.backends.tensorrt.standin.settings`
STANDIN_COUNT       a file that gets a JSON line per event: start (of a worker), build, built, refit
STANDIN_PROCESSES   what :mod:`tests.backends.tensorrt.standin.nvml` lists, see ``nvml.c``
==================  ================================================================================
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[3]


def command(**variables: str) -> list[str]:
    """Return the words of ``toolchain.command`` for a Python that has the stand-in.

    Args:
        variables: ``version``, ``device``, ``fault`` and ``count``: what the environment shall say
            of them wherever it runs; what is not named here is taken from the caller's environment.
    """
    settings = [f"STANDIN_{name.upper()}={value}" for name, value in variables.items()]
    path = os.pathsep.join([str(HERE / "site"), str(REPOSITORY)])
    return ["env", f"PYTHONPATH={path}", *settings, sys.executable]
