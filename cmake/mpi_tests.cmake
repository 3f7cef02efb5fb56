# The collectives as processes: the same cases as the thread ranks, under mpirun with 1 to 4 ranks.
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/../tests/parallel/mpi/*.cpp")
add_executable(mpi_tests ${sources} "${CMAKE_CURRENT_LIST_DIR}/../tests/parallel/collectives/collective_cases.cpp")
target_link_libraries(mpi_tests PRIVATE test_main olmoe_parallel)  # with a main of its own
olmoe_reuse_torch_pch(mpi_tests)
foreach(ranks 1 2 3 4)
  add_test(NAME mpi_${ranks} COMMAND ${MPIRUN} -n ${ranks} $<TARGET_FILE:mpi_tests>)
  set_tests_properties(mpi_${ranks} PROPERTIES LABELS mpi TIMEOUT 120 PROCESSORS 2
    ENVIRONMENT "OMP_NUM_THREADS=1;OLMOE_EXPECT_RANKS=${ranks}")
endforeach()

# Messages beyond 2 GiB need 5 GB of memory: `ctest -LE large` leaves them out.
add_test(NAME mpi_large COMMAND ${MPIRUN} -n 2 $<TARGET_FILE:mpi_tests> "[large]")
set_tests_properties(mpi_large PROPERTIES LABELS "mpi;large" TIMEOUT 240 RUN_SERIAL TRUE
  ENVIRONMENT "OMP_NUM_THREADS=1;OLMOE_EXPECT_RANKS=2")

# Fewer ranks than promised must not look green.
add_test(NAME mpi_missing_rank COMMAND ${MPIRUN} -n 2 $<TARGET_FILE:mpi_tests>)
set_tests_properties(mpi_missing_rank PROPERTIES LABELS mpi TIMEOUT 120
  ENVIRONMENT "OLMOE_EXPECT_RANKS=3" PASS_REGULAR_EXPRESSION "2 ranks run, OLMOE_EXPECT_RANKS = 3")

# Whole runs in every layout: one start for each world.
add_executable(mpi_layouts_tests "${CMAKE_CURRENT_LIST_DIR}/../tests/parallel/mpi/main.cpp"
  "${CMAKE_CURRENT_LIST_DIR}/../tests/trainer/mpi/layouts_test.cpp")
target_link_libraries(mpi_layouts_tests PRIVATE test_main olmoe_trainer nlohmann_json::nlohmann_json)
olmoe_reuse_torch_pch(mpi_layouts_tests)
foreach(ranks RANGE 1 8)
  add_test(NAME mpi_layouts_${ranks} COMMAND ${MPIRUN} -n ${ranks} $<TARGET_FILE:mpi_layouts_tests>)
  set_tests_properties(mpi_layouts_${ranks} PROPERTIES LABELS mpi TIMEOUT 200 PROCESSORS 2
    ENVIRONMENT "OMP_NUM_THREADS=1;OLMOE_EXPECT_RANKS=${ranks}")
endforeach()
