# Sanitizer builds: `sanitizer_tests` builds the unit and thread-rank tests and two planted errors, `ctest -L sanitizer`
# runs them. The rooms keep a program each: tests/core has configs of its own under names that the real ones have too.
set(sanitizer_options "OMP_NUM_THREADS=1"
  "ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=${CMAKE_SOURCE_DIR}/tests/support/thread_sanitizer.supp")
add_custom_target(sanitizer_tests)
foreach(room core kernels parallel data model trainer)
  if(TARGET ${room}_tests)
    add_dependencies(sanitizer_tests ${room}_tests)
    set_tests_properties(${room} PROPERTIES LABELS sanitizer TIMEOUT 1800 ENVIRONMENT "${sanitizer_options}")
  endif()
endforeach()

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
else()
  olmoe_plant(planted_overflow heap "AddressSanitizer: heap-buffer-overflow")
  olmoe_plant(planted_overflow signed "runtime error: signed integer overflow")
endif()
