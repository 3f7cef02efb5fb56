# The collectives as processes: the same cases as the thread ranks, under mpirun with 1 to 4 ranks.
# `mpi_tests [large]` with two ranks adds messages beyond 2 GiB (5 GB of memory).
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/../tests/parallel/mpi/*.cpp")
add_executable(mpi_tests ${sources} "${CMAKE_CURRENT_LIST_DIR}/../tests/parallel/collective_cases.cpp")
get_target_property(test_includes test_main INTERFACE_INCLUDE_DIRECTORIES)
target_include_directories(mpi_tests PRIVATE ${test_includes})
target_link_libraries(mpi_tests PRIVATE olmoe_parallel)
if(NOT CATCH2_SINGLE_HEADER)
  target_link_libraries(mpi_tests PRIVATE Catch2::Catch2)
endif()
foreach(ranks 1 2 3 4)
  add_test(NAME mpi_${ranks} COMMAND ${MPIRUN} -n ${ranks} $<TARGET_FILE:mpi_tests>)
  set_tests_properties(mpi_${ranks} PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2
    ENVIRONMENT "OMP_NUM_THREADS=1;OLMOE_EXPECT_RANKS=${ranks}")
endforeach()
