# The real program under mpirun: one ctest for each class of tests/e2e/test_*.py, but for those named ...Test, which are
# there to be derived from. `ctest -L e2e` runs these alone.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
file(GLOB files CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/e2e/test_*.py")
foreach(file IN LISTS files)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
  get_filename_component(module "${file}" NAME_WE)
  file(STRINGS "${file}" classes REGEX "^class [A-Za-z]+\\([A-Za-z]*Test\\)")
  foreach(line IN LISTS classes)
    string(REGEX REPLACE "^class ([A-Za-z]+).*" "\\1" class "${line}")
    if(class MATCHES "Test$")
      continue()
    endif()
    string(REPLACE "test_" "e2e_" name "${module}_${class}")
    add_test(NAME ${name} COMMAND "${Python3_EXECUTABLE}" "${file}" ${class})
    set_tests_properties(${name} PROPERTIES LABELS e2e TIMEOUT 300
      ENVIRONMENT "OLMOE_TRAIN=$<TARGET_FILE:olmoe-train>")
    # Most wait more than they compute, and can do so two at a time. A rank that gets no core is silent, as one that hangs.
    if(module STREQUAL "test_hang" OR name STREQUAL "e2e_io_faults_SlowDisk")
      set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
    endif()
  endforeach()
endforeach()

# What test_io_faults.py preloads: file calls that fail, are short or slow.
add_library(io_faults MODULE tests/e2e/io_faults.c)
set_target_properties(io_faults PROPERTIES PREFIX "")
target_compile_options(io_faults PRIVATE -Wall -Wextra $<$<BOOL:${OLMOE_WARNINGS_AS_ERRORS}>:-Werror>)
