# What a build with CUDA and NCCL needs. CUDA 13 is what the pinned LibTorch was built with.
set(CMAKE_CUDA_ARCHITECTURES ${OLMOE_CUDA_ARCHITECTURES})
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that CUDA 13 has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
# ccache keeps what ptxas said with the object.
set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_SOURCE_DIR}/cmake/keep_ptxas_log.sh;${CMAKE_BINARY_DIR}/ptxas"
    ${CMAKE_CXX_COMPILER_LAUNCHER})
find_package(CUDAToolkit 13.0 REQUIRED)
find_path(NCCL_INCLUDE nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} REQUIRED)
find_library(NCCL_LIBRARY nccl HINTS "${CUDAToolkit_LIBRARY_DIR}" REQUIRED)

# 20208: LibTorch's headers name long double, which a GPU does not have.
if(OLMOE_WARNINGS_AS_ERRORS)
  set(device_errors "-Werror=all-warnings;")
  set(host_errors ",-Werror")
endif()
set(OLMOE_CUDA_OPTIONS "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--extended-lambda;-lineinfo;-Xptxas=-v;${device_errors}-diag-suppress=20208;-Xcompiler=-Wall,-Wextra${host_errors},-fopenmp>")

# nvcc finds CUDA's headers by itself; a C++ source that includes them says so.
set(OLMOE_CUDA_HEADERS "${NCCL_INCLUDE}" ${CUDAToolkit_INCLUDE_DIRS})
list(REMOVE_DUPLICATES OLMOE_CUDA_HEADERS)
list(TRANSFORM OLMOE_CUDA_HEADERS PREPEND "-isystem")
function(olmoe_cuda_headers SOURCE)
  set_source_files_properties("${SOURCE}" PROPERTIES COMPILE_OPTIONS "${OLMOE_CUDA_HEADERS}")
endfunction()
