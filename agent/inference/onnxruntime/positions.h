// Positions of functions in ONNX Runtime's OrtApi, counted in pointers. direct_test.go checks each against the header
// that comes with the Go binding.
#ifndef DHOW_POSITIONS_H
#define DHOW_POSITIONS_H

#define POS_GetErrorCode 1
#define POS_GetErrorMessage 2
#define POS_Run 9
#define POS_SessionGetInputCount 30
#define POS_SessionGetOutputCount 31
#define POS_SessionGetInputTypeInfo 33
#define POS_SessionGetOutputTypeInfo 34
#define POS_SessionGetInputName 36
#define POS_SessionGetOutputName 37
#define POS_CreateRunOptions 39
#define POS_RunOptionsSetTerminate 46
#define POS_RunOptionsUnsetTerminate 47
#define POS_CreateTensorAsOrtValue 48
#define POS_CreateTensorWithDataAsOrtValue 49
#define POS_GetTensorMutableData 51
#define POS_GetStringTensorDataLength 53
#define POS_GetStringTensorContent 54
#define POS_CastTypeInfoToTensorInfo 55
#define POS_GetOnnxTypeFromTypeInfo 56
#define POS_GetTensorElementType 60
#define POS_GetDimensionsCount 61
#define POS_GetDimensions 62
#define POS_CreateCpuMemoryInfo 69
#define POS_AllocatorFree 76
#define POS_GetAllocatorWithDefaultOptions 78
#define POS_ReleaseStatus 93
#define POS_ReleaseValue 96
#define POS_ReleaseRunOptions 97
#define POS_ReleaseTypeInfo 98
#define POS_GetAvailableProviders 125
#define POS_ReleaseAvailableProviders 126
#define POS_AddRunConfigEntry 165
#define POS_GetResizedStringTensorElementBuffer 252
#define POS_GetTensorSizeInBytes 318
#define POS_TensorTypeAndShape_HasShape 390
#define POS_GetTensorElementTypeAndShapeDataReference 414

#endif
