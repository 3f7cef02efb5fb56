# Sanitizer builds: `sanitizer_tests` is one program of all unit and thread-rank tests, and planted errors;
# `ctest -L sanitizer` runs them.
set(sanitizer_options "OMP_NUM_THREADS=1"
  "ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=${CMAKE_SOURCE_DIR}/tests/support/thread_sanitizer.supp")
set(sources "")
foreach(room core kernels parallel data model trainer)
  olmoe_test_sources(of_room ${room})
  list(APPEND sources ${of_room})
endforeach()
add_executable(sanitizer_tests ${sources})
target_link_libraries(sanitizer_tests PRIVATE test_main olmoe_trainer_inspection olmoe_trainer_preflight olmoe_trainer_generation nlohmann_json::nlohmann_json ZLIB::ZLIB)
target_link_options(sanitizer_tests PRIVATE ${counted_multiply})
olmoe_reuse_torch_pch(sanitizer_tests)
# With LibTorch in sight, Catch2 would print a vector by LibTorch's operator, which the elements of core's lack.
file(GLOB without_pch CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/core/*_test.cpp" "${CMAKE_SOURCE_DIR}/tests/core/*/*_test.cpp")
set_source_files_properties(${without_pch} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
# Limits of time are those of the release build. Thread Sanitizer does not see the barriers of OpenMP, and would call every
# loop on two threads a race.
# It ends where the address space is limited, too. Hidden cases are those that another case starts as a process.
set(left_out "~[timed]~[.]")
if(OLMOE_SANITIZER MATCHES "thread")
  string(APPEND left_out "~[openmp]~[address_limit]")
endif()
add_test(NAME sanitizer_tests COMMAND sanitizer_tests "${left_out}")
set_tests_properties(sanitizer_tests PROPERTIES LABELS sanitizer TIMEOUT 3600 ENVIRONMENT "${sanitizer_options}")

# A planted error must be named in so many words: to end in any other way is a failure.
function(olmoe_plant NAME ARGUMENT REPORT)
  if(NOT TARGET ${NAME})
    add_executable(${NAME} "${CMAKE_SOURCE_DIR}/tests/sanitizer_plants/${NAME}.cpp")
    target_link_libraries(${NAME} PRIVATE olmoe_options)
    add_dependencies(sanitizer_tests ${NAME})
  endif()
  add_test(NAME ${NAME}_${ARGUMENT} COMMAND ${NAME} ${ARGUMENT})
  set_tests_properties(${NAME}_${ARGUMENT} PROPERTIES LABELS sanitizer TIMEOUT 60 ENVIRONMENT "${sanitizer_options}"
    PASS_REGULAR_EXPRESSION "${REPORT}")
endfunction()

if(OLMOE_SANITIZER MATCHES "thread")
  olmoe_plant(planted_race counter "ThreadSanitizer: data race")
  add_test(NAME planted_race_in_a_save COMMAND sanitizer_tests "[.planted_race]")
  set_tests_properties(planted_race_in_a_save PROPERTIES LABELS sanitizer TIMEOUT 60 ENVIRONMENT "${sanitizer_options}"
    PASS_REGULAR_EXPRESSION "ThreadSanitizer: data race")
else()
  olmoe_plant(planted_overflow heap "AddressSanitizer: heap-buffer-overflow")
  olmoe_plant(planted_overflow signed "runtime error: signed integer overflow")
endif()
