"""Takes the GPU's memory until its standard input closes. For the toolchain's Python.

``python hog.py FREE_MIB`` leaves about FREE_MIB and prints how many bytes it took.
"""

from __future__ import annotations

import sys
from typing import Any


def take(cuda: Any, leave: int) -> int:
    """Allocate until at most *leave* bytes are free; return how many bytes were taken."""
    taken, block = 0, 1 << 34
    while block >= 1 << 20:
        status, free, _ = cuda.cudaMemGetInfo()
        if int(status):
            raise RuntimeError(str(status))
        if free - leave < block or int(cuda.cudaMalloc(block)[0]):
            block //= 2
        else:
            taken += block
    return taken


if __name__ == "__main__":
    from cuda.bindings import runtime

    runtime.cudaSetDevice(0)
    print(take(runtime, int(sys.argv[1]) << 20), flush=True)
    sys.stdin.read()
