# The fused kernels of the experts: CUTLASS's headers, and code for compute capability 9.0 alone, whatever else is built
# for.
set(CUTLASS_HOME "${CMAKE_SOURCE_DIR}/.deps/cutlass-4.2.0" CACHE PATH "CUTLASS 4.2.0: scripts/install_cutlass.sh")
find_path(CUTLASS_INCLUDE cutlass/version.h PATHS "${CUTLASS_HOME}/include" NO_DEFAULT_PATH)
if(NOT CUTLASS_INCLUDE)
  message(FATAL_ERROR "There is no CUTLASS in ${CUTLASS_HOME}: run scripts/install_cutlass.sh, or set CUTLASS_HOME")
endif()
file(STRINGS "${CUTLASS_INCLUDE}/cutlass/version.h" cutlass_version REGEX "^#define CUTLASS_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" cutlass_version "${cutlass_version}")
if(NOT cutlass_version STREQUAL "4;2;0")
  message(FATAL_ERROR "CUTLASS 4.2.0 is needed, ${CUTLASS_INCLUDE} holds ${cutlass_version}")
endif()

file(GLOB hopper_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/hopper/*.cu")
add_library(olmoe_hopper OBJECT ${hopper_sources})
set_target_properties(olmoe_hopper PROPERTIES CUDA_ARCHITECTURES 90a)
target_include_directories(olmoe_hopper SYSTEM PRIVATE "${CUTLASS_INCLUDE}")
# CUTLASS's assertions are calls, before which a multiprocessor would wait for its products.
target_compile_definitions(olmoe_hopper PRIVATE NDEBUG)
target_compile_options(olmoe_hopper PRIVATE ${OLMOE_CUDA_OPTIONS})
target_link_libraries(olmoe_hopper PRIVATE olmoe_torch LibTorch::cuda CUDA::cudart)
target_sources(olmoe_kernels PRIVATE $<TARGET_OBJECTS:olmoe_hopper>)
