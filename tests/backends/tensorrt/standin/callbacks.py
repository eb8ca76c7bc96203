"""Classes that the worker derives from, for TensorRT to call."""

from __future__ import annotations

from typing import Any

from tests.backends.tensorrt.standin.enums import Severity


class ILogger:
    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


def say(logger: ILogger, text: str) -> None:
    """Log an error."""
    logger.log(Severity.ERROR, text)


class IProgressMonitor:
    pass


class IProfiler:
    pass


class IOutputAllocator:
    pass


class IInt8EntropyCalibrator2:
    KIND = "EntropyCalibration2"


class IInt8MinMaxCalibrator:
    KIND = "MinMaxCalibration"
