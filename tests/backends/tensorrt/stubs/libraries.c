/* Stands in for TensorRT's shared libraries, so that its real Python bindings can be imported on a
 * machine without TensorRT. The bindings link against these factories only; each of them gives
 * nothing, so that trt.Builder(logger) and trt.Runtime(logger) raise a TypeError while every class,
 * enum and signature of the bindings is the real one. One source serves all majors and libraries:
 * the dynamic linker looks for symbols in whichever it loads first. */

#define FACTORY(name) void *name(void) { return 0; }

FACTORY(createInferBuilder_INTERNAL)
FACTORY(createInferRefitter_INTERNAL)
FACTORY(createInferRuntime_INTERNAL)
FACTORY(createNvOnnxParserRefitter_INTERNAL)
FACTORY(createNvOnnxParser_INTERNAL)
FACTORY(getBuilderPluginRegistry)
FACTORY(getPluginRegistry)
FACTORY(initLibNvInferPlugins)

int getNvOnnxParserVersion(void) { return 0; }

/* TensorRT 8 only: the Caffe and UFF parsers (libnvparsers.so.8), by their C++ names. */
FACTORY(_ZN11nvuffparser15createUffParserEv)
FACTORY(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
FACTORY(_ZN14nvcaffeparser117createCaffeParserEv)
FACTORY(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
