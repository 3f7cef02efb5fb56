# Tests mirror the rooms: every file of tests/<room>/ and of the rooms inside it is in <room>_tests, one Catch2 program for
# each folder at the top.
find_path(CATCH2_SINGLE_HEADER catch2/catch.hpp)
add_library(test_main STATIC tests/support/main.cpp tests/support/run_tests.cpp)
# A test's own code need not be fast, but quick to compile. Users of the precompiled header keep the flags that it was
# made with.
set(quick_to_compile -O0)
target_compile_options(test_main PRIVATE ${quick_to_compile})
target_link_libraries(test_main PUBLIC olmoe_options)
target_include_directories(test_main PUBLIC "${CMAKE_SOURCE_DIR}/tests")
if(OLMOE_SANITIZER)
  target_compile_options(test_main PUBLIC $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)  # false alarms in Catch2 under -fsanitize
endif()
if(NOT CATCH2_SINGLE_HEADER)
  find_package(Catch2 3 QUIET)
  if(NOT Catch2_FOUND)
    message(FATAL_ERROR "The tests need Catch2: run scripts/install_packages.sh test, or configure with -DBUILD_TESTING=OFF")
  endif()
  target_link_libraries(test_main PUBLIC Catch2::Catch2)
endif()
# One fixture path each: no test may depend on the folder it is started from.
target_compile_definitions(test_main PUBLIC OLMOE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# stage_cost_test.cpp counts the FLOPs of blas::multiply of fp32 matrices: for the programs that have it.
set(counted_multiply -Wl,--wrap=_ZN5olmoe7kernels4blas8multiplyENS1_4SizeEfNS1_6MatrixIKfEES5_fNS3_IfEE)

set(MPIRUN mpirun --allow-run-as-root --oversubscribe --bind-to none)

# The precompiled header was made with -fPIC, and GCC wants the same of its users.
function(olmoe_reuse_torch_pch TARGET)
  set_target_properties(${TARGET} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${TARGET} PRIVATE -fPIC)
  target_precompile_headers(${TARGET} REUSE_FROM olmoe_torch_pch)
endfunction()

# Sources of tests/ROOM and of the folders in it, but for those that run under mpirun with a main of their own.
function(olmoe_test_sources OUT ROOM)
  file(GLOB folders LIST_DIRECTORIES true CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/${ROOM}/*")
  list(FILTER folders EXCLUDE REGEX "(/mpi|\\.[a-z]+)$")
  olmoe_sources(sources "${CMAKE_SOURCE_DIR}/tests/${ROOM}" ${folders})
  set(${OUT} ${sources} PARENT_SCOPE)
endfunction()

function(olmoe_tests ROOM)
  cmake_parse_arguments(TESTS "PCH" "" "LINK;ARGUMENTS" ${ARGN})
  olmoe_test_sources(sources ${ROOM})
  if(NOT sources)
    return()
  endif()
  add_executable(${ROOM}_tests ${sources})
  target_link_libraries(${ROOM}_tests PRIVATE test_main ${TESTS_LINK})
  if(TESTS_PCH)
    olmoe_reuse_torch_pch(${ROOM}_tests)
  else()
    target_compile_options(${ROOM}_tests PRIVATE ${quick_to_compile})
  endif()
  add_test(NAME ${ROOM} COMMAND ${ROOM}_tests ${TESTS_ARGUMENTS})
  set_tests_properties(${ROOM} PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1" TIMEOUT 300)
endfunction()

olmoe_tests(core LINK olmoe_core_reader nlohmann_json::nlohmann_json)
olmoe_tests(kernels PCH LINK olmoe_kernels olmoe_trainer_device)
# The same on narrower vectors, which older CPUs have.
add_test(NAME kernels_avx2 COMMAND kernels_tests)
set_tests_properties(kernels_avx2 PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1;ATEN_CPU_CAPABILITY=avx2" TIMEOUT 300)
olmoe_tests(parallel PCH LINK olmoe_parallel)
olmoe_tests(data LINK olmoe_data ZLIB::ZLIB)
olmoe_tests(model PCH LINK olmoe_model)
# The trainer's in four parts, for two cores: what measures CPU time, alone; every layout of up to 8 thread ranks; cases
# of files inside its rooms (--filenames-as-tags); all others.
file(GLOB files RELATIVE "${CMAKE_SOURCE_DIR}/tests/trainer" CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/trainer/*/*_test.cpp")
list(TRANSFORM files REPLACE "^[a-z]+/([a-z0-9_]+)\\.cpp$" "[#\\1]~[layouts]~[timed]" OUTPUT_VARIABLE in_rooms)
list(TRANSFORM files REPLACE "^[a-z]+/([a-z0-9_]+)\\.cpp$" "~[#\\1]" OUTPUT_VARIABLE not_in_rooms)
list(JOIN in_rooms "," in_rooms)
list(JOIN not_in_rooms "" not_in_rooms)
olmoe_tests(trainer PCH LINK olmoe_trainer_inspection olmoe_trainer_preflight olmoe_trainer_generation nlohmann_json::nlohmann_json ZLIB::ZLIB
  ARGUMENTS --filenames-as-tags "${not_in_rooms}~[layouts]")
target_link_options(trainer_tests PRIVATE ${counted_multiply})
add_test(NAME trainer_rooms COMMAND trainer_tests --filenames-as-tags "${in_rooms}")
add_test(NAME trainer_timed COMMAND trainer_tests "[timed]")
add_test(NAME trainer_layouts COMMAND trainer_tests "[layouts]")
set_tests_properties(trainer_rooms trainer_timed trainer_layouts PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1" TIMEOUT 300)
set_tests_properties(trainer PROPERTIES TIMEOUT 600)
set_tests_properties(trainer_timed PROPERTIES RUN_SERIAL TRUE)

add_executable(golden_tests tests/golden/golden_parity_test.cpp)
target_link_libraries(golden_tests PRIVATE test_main olmoe_trainer)
olmoe_reuse_torch_pch(golden_tests)
add_test(NAME golden_parity COMMAND golden_tests)
set_tests_properties(golden_parity PROPERTIES ENVIRONMENT "OMP_NUM_THREADS=1" TIMEOUT 300)

# It brings a device `cuda` and a sanitizer of its own, and switches stacks in assembly.
if(NOT OLMOE_CUDA AND NOT OLMOE_SANITIZER AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  include(cmake/emulation_tests.cmake)
endif()
include(cmake/mpi_tests.cmake)
include(cmake/e2e_tests.cmake)
if(OLMOE_SANITIZER)
  include(cmake/sanitizer_tests.cmake)
endif()

# The scripts' own tests, and the rules of the house. Debian's python3 sees Debian's packages; another on the path may not.
find_program(SYSTEM_PYTHON NAMES python3 PATHS /usr/bin NO_DEFAULT_PATH)
if(NOT SYSTEM_PYTHON)
  find_program(SYSTEM_PYTHON NAMES python3 REQUIRED)
endif()
file(GLOB script_tests CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/scripts/test_*.py")
foreach(test IN LISTS script_tests)
  get_filename_component(name "${test}" NAME_WE)
  add_test(NAME scripts_${name} COMMAND "${SYSTEM_PYTHON}" "${test}" WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set_tests_properties(scripts_${name} PROPERTIES TIMEOUT 200 ENVIRONMENT "OLMOE_TRAIN=$<TARGET_FILE:olmoe-train>")
endforeach()
set_tests_properties(scripts_test_study_paper_sizes PROPERTIES TIMEOUT 500)  # some 200 starts of the programs
add_test(NAME house COMMAND "${SYSTEM_PYTHON}" scripts/check_house.py WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")

# `ctest -LE long` leaves these out: the slowest, of kinds of which others stay.
set(long_tests trainer_layouts scripts_test_gpu_bundle scripts_test_study_paper_sizes scripts_test_study_tree mpi_layouts_6
  mpi_layouts_8 e2e_bad_input_TokenFiles e2e_bad_input_Config e2e_bad_input_Checkpoint e2e_divergence_Divergence e2e_fault_points_PointsOfSaves
  e2e_fault_points_PointsOfCommitsAndLoads e2e_hang_HangElsewhere e2e_memory_Memory
  e2e_ranks_Ranks e2e_resume_Killed e2e_resume_OtherRanks e2e_signals_Evaluation e2e_signals_ToOneRank
  e2e_start_OneRunInAFolder)
if(TARGET emulation_tests)
  list(APPEND long_tests emulation_kernels_seed_2 emulation_kernels_seed_3)
endif()
set_property(TEST ${long_tests} APPEND PROPERTY LABELS long)
