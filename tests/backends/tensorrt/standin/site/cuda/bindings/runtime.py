"""``import cuda.bindings.runtime`` finds this."""

from tests.backends.tensorrt.standin.cuda_runtime import *  # noqa: F403
