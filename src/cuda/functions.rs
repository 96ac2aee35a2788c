// The functions that candle and this crate call, by library. A link error names one that is missing:
// the undefined symbol of CUDA.
libraries! {
    ["libcuda.so.1"]:
        "cuCtxDestroy_v2" "cuCtxGetCurrent" "cuCtxSetCurrent" "cuCtxSynchronize" "cuDeviceGet"
        "cuDeviceGetAttribute" "cuDeviceGetCount" "cuDeviceGetDefaultMemPool" "cuDeviceGetName"
        "cuDevicePrimaryCtxRelease_v2" "cuDevicePrimaryCtxRetain" "cuDriverGetVersion" "cuEventCreate"
        "cuEventDestroy_v2" "cuEventRecord" "cuFuncSetAttribute" "cuGetErrorString" "cuInit"
        "cuLaunchKernel" "cuMemAllocAsync" "cuMemAlloc_v2" "cuMemFreeAsync" "cuMemFree_v2"
        "cuMemGetInfo_v2" "cuMemPoolSetAttribute" "cuMemcpyDtoDAsync_v2" "cuMemcpyDtoHAsync_v2"
        "cuMemcpyHtoDAsync_v2" "cuMemcpyPeerAsync" "cuMemsetD8Async" "cuModuleGetFunction" "cuModuleLoad"
        "cuModuleLoadData" "cuModuleUnload" "cuStreamCreate" "cuStreamDestroy_v2" "cuStreamIsCapturing"
        "cuStreamSynchronize" "cuStreamWaitEvent";
    ["libcublas.so.13", "libcublas.so.12"]:
        "cublasCreate_v2" "cublasDestroy_v2" "cublasDgemmStridedBatched" "cublasGemmStridedBatchedEx"
        "cublasSetStream_v2";
    ["libcurand.so.10"]:
        "curandCreateGenerator" "curandDestroyGenerator" "curandGenerateNormal"
        "curandGenerateNormalDouble" "curandGenerateUniform" "curandGenerateUniformDouble"
        "curandSetPseudoRandomGeneratorSeed" "curandSetStream";
    ["libnvrtc.so.13", "libnvrtc.so.12"]:
        "nvrtcCompileProgram" "nvrtcCreateProgram" "nvrtcDestroyProgram" "nvrtcGetCUBIN"
        "nvrtcGetCUBINSize" "nvrtcGetPTX" "nvrtcGetPTXSize" "nvrtcGetProgramLog" "nvrtcGetProgramLogSize";
}
