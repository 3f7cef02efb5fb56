# Programs of bench/. kernels_bench is Google Benchmark's; the others bring their own main.
find_package(benchmark REQUIRED)
add_executable(kernels_bench bench/kernels_bench.cpp)
if(OLMOE_CUDA)
  target_sources(kernels_bench PRIVATE bench/moe_layer_cuda.cpp bench/attention_cuda.cpp)
  olmoe_cuda_headers(bench/moe_layer_cuda.cpp)
  target_link_libraries(kernels_bench PRIVATE olmoe_trainer_device)
endif()
if(TARGET olmoe_hopper)
  olmoe_hopper_objects(experts_ablation bench/experts_ablation.cu)
  target_link_libraries(experts_ablation PRIVATE benchmark::benchmark)
  target_sources(kernels_bench PRIVATE $<TARGET_OBJECTS:experts_ablation>)
endif()
target_link_libraries(kernels_bench PRIVATE olmoe_kernels benchmark::benchmark)

add_executable(step_breakdown bench/step_breakdown.cpp bench/step_parts.cpp)
target_link_libraries(step_breakdown PRIVATE olmoe_trainer CLI11::CLI11)

add_executable(step_overhead bench/step_overhead.cpp)
target_link_libraries(step_overhead PRIVATE olmoe_trainer CLI11::CLI11)

add_executable(profile_steps bench/profile_steps.cpp)
target_link_libraries(profile_steps PRIVATE olmoe_trainer CLI11::CLI11)

add_executable(checkpoint_speed bench/checkpoint_speed.cpp)
target_link_libraries(checkpoint_speed PRIVATE olmoe_trainer_conversion CLI11::CLI11)
