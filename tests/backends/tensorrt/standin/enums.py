"""The enums of ``tensorrt`` that the worker uses."""

from __future__ import annotations

from tests.backends.tensorrt.standin.names import make_enum

# Every version has these members; what differs comes from the tables.
BuilderFlag = make_enum("BuilderFlag")
DataType = make_enum("DataType", "FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8")
DeviceType = make_enum("DeviceType", "GPU", "DLA")
EngineStat = make_enum("EngineStat")
HardwareCompatibilityLevel = make_enum("HardwareCompatibilityLevel")
LayerInformationFormat = make_enum("LayerInformationFormat", "ONELINE", "JSON")
LayerType = make_enum("LayerType", "CONVOLUTION", "CONSTANT", "MATRIX_MULTIPLY", "IDENTITY")
MemoryPoolType = make_enum("MemoryPoolType")
NetworkDefinitionCreationFlag = make_enum("NetworkDefinitionCreationFlag")
OnnxParserFlag = make_enum("OnnxParserFlag")
PreviewFeature = make_enum("PreviewFeature")
ProfilingVerbosity = make_enum("ProfilingVerbosity")
RuntimePlatform = make_enum("RuntimePlatform")
SerializationFlag = make_enum("SerializationFlag")
Severity = make_enum("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
TacticSource = make_enum("TacticSource")
TensorFormat = make_enum("TensorFormat", "LINEAR")
TensorIOMode = make_enum("TensorIOMode", "INPUT", "OUTPUT")
TensorLocation = make_enum("TensorLocation", "DEVICE", "HOST")
TilingOptimizationLevel = make_enum("TilingOptimizationLevel")
WeightsRole = make_enum("WeightsRole", "KERNEL", "BIAS", "CONSTANT")
