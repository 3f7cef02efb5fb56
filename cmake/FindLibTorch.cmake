# Finds LibTorch without the wheel's own TorchConfig.cmake, which demands a CUDA toolkit everywhere.
#
# Looked at, in this order: -DLIBTORCH=DIR, the environment variable LIBTORCH, .deps/libtorch-<version>
# (where scripts/install_libtorch.sh puts it), an installed Python torch. DIR may be a folder that holds
# torch/ (a wheel unpacked by pip --target), the torch package itself, or an unpacked LibTorch zip.
# Gives the targets LibTorch::cpu and, with OLMOE_CUDA, LibTorch::cuda.

set(_roots "${LIBTORCH}" "$ENV{LIBTORCH}" "${CMAKE_SOURCE_DIR}/.deps/libtorch-${LibTorch_FIND_VERSION}")
set(LIBTORCH_ROOT "")
foreach(_dir IN LISTS _roots)
  foreach(_candidate "${_dir}/torch" "${_dir}/libtorch" "${_dir}")
    if(_dir AND NOT LIBTORCH_ROOT AND EXISTS "${_candidate}/include/ATen/ATen.h")
      set(LIBTORCH_ROOT "${_candidate}")
    endif()
  endforeach()
  if(_dir AND NOT LIBTORCH_ROOT AND NOT _dir STREQUAL "${CMAKE_SOURCE_DIR}/.deps/libtorch-${LibTorch_FIND_VERSION}")
    message(FATAL_ERROR "LIBTORCH names ${_dir}, which holds no include/ATen/ATen.h")
  endif()
endforeach()
if(NOT LIBTORCH_ROOT)
  execute_process(COMMAND python3 -c "import torch, os; print(os.path.dirname(torch.__file__))"
                  OUTPUT_VARIABLE _python_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(EXISTS "${_python_torch}/include/ATen/ATen.h")
    set(LIBTORCH_ROOT "${_python_torch}")
  endif()
endif()
if(NOT LIBTORCH_ROOT)
  message(FATAL_ERROR "No LibTorch ${LibTorch_FIND_VERSION} found. Run scripts/install_libtorch.sh, or name one: LIBTORCH=/path")
endif()

file(STRINGS "${LIBTORCH_ROOT}/include/torch/headeronly/version.h" _version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" _version_numbers "${_version_lines}")
list(JOIN _version_numbers "." LibTorch_VERSION)
if(NOT LibTorch_VERSION VERSION_EQUAL LibTorch_FIND_VERSION)
  message(FATAL_ERROR "LibTorch ${LibTorch_VERSION} found in ${LIBTORCH_ROOT}, but ${LibTorch_FIND_VERSION} is required")
endif()
message(STATUS "LibTorch ${LibTorch_VERSION}: ${LIBTORCH_ROOT}")

add_library(LibTorch::cpu INTERFACE IMPORTED)
target_include_directories(LibTorch::cpu SYSTEM INTERFACE
  "${LIBTORCH_ROOT}/include" "${LIBTORCH_ROOT}/include/torch/csrc/api/include")
# The wheel brings the headers of a fmt of its own, and not its library.
add_library(libtorch_fmt STATIC "${CMAKE_SOURCE_DIR}/cmake/libtorch_fmt.cpp")
target_include_directories(libtorch_fmt SYSTEM PRIVATE "${LIBTORCH_ROOT}/include")
target_link_libraries(LibTorch::cpu INTERFACE
  libtorch_fmt "${LIBTORCH_ROOT}/lib/libtorch_cpu.so" "${LIBTORCH_ROOT}/lib/libc10.so")
target_link_options(LibTorch::cpu INTERFACE -Wl,--allow-shlib-undefined "-Wl,-rpath,${LIBTORCH_ROOT}/lib")

if(OLMOE_CUDA)
  add_library(LibTorch::cuda INTERFACE IMPORTED)
  target_link_libraries(LibTorch::cuda INTERFACE LibTorch::cpu -Wl,--no-as-needed
    "${LIBTORCH_ROOT}/lib/libtorch_cuda.so" "${LIBTORCH_ROOT}/lib/libc10_cuda.so" -Wl,--as-needed)
endif()
