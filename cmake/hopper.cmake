# The fused kernels of the experts.
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

# Sources with CUTLASS's headers, and code for compute capability 9.0 alone, whatever else is built for.
function(olmoe_hopper_objects NAME)
  add_library(${NAME} OBJECT ${ARGN})
  set_target_properties(${NAME} PROPERTIES CUDA_ARCHITECTURES 90a)
  target_include_directories(${NAME} SYSTEM PRIVATE "${CUTLASS_INCLUDE}")
  # CUTLASS's assertions are calls, before which a multiprocessor would wait for its products.
  target_compile_definitions(${NAME} PRIVATE NDEBUG)
  target_compile_options(${NAME} PRIVATE ${OLMOE_CUDA_OPTIONS})
  target_link_libraries(${NAME} PRIVATE olmoe_torch LibTorch::cuda CUDA::cudart)
endfunction()

file(GLOB hopper_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/hopper/*.cu")
olmoe_hopper_objects(olmoe_hopper ${hopper_sources})
target_sources(olmoe_kernels PRIVATE $<TARGET_OBJECTS:olmoe_hopper>)
