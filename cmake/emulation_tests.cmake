# The CUDA kernels on a CPU (tests/emulation/README.md): their sources, rewritten in the build folder, under
# AddressSanitizer, linked before the library of the CPU's kernels. `ctest -R emulation` runs these alone.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(emulation "${CMAKE_SOURCE_DIR}/tests/emulation")
set(emulation_build "${CMAKE_BINARY_DIR}/emulation")
set(sanitize -fsanitize=address,alignment,bounds -fno-sanitize-recover=all)

# Writes TO, in the build folder, from FROM, in the source folder.
function(olmoe_rewrite_launches FROM TO)
  file(GLOB headers CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/rows/*.cuh")
  add_custom_command(OUTPUT "${emulation_build}/${TO}"
    COMMAND "${Python3_EXECUTABLE}" "${emulation}/rewrite_launches.py" "${FROM}" "${emulation_build}/${TO}"
    DEPENDS "${CMAKE_SOURCE_DIR}/${FROM}" "${emulation}/rewrite_launches.py" "${CMAKE_SOURCE_DIR}/scripts/cuda_sources.py"
            ${headers}
    WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}" COMMENT "Rewriting launches of ${FROM}" VERBATIM)
endfunction()

# All kernels but those of libraries; a new .cu is taken of itself.
file(GLOB kernels RELATIVE "${CMAKE_SOURCE_DIR}" CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/*.cu")
list(REMOVE_ITEM kernels kernels/attention.cu)
file(GLOB headers RELATIVE "${CMAKE_SOURCE_DIR}" CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/kernels/rows/*.cuh")
set(rewritten "")
foreach(source IN LISTS kernels headers)
  string(REGEX REPLACE "\\.cu$" ".cpp" target "${source}")
  olmoe_rewrite_launches("${source}" "${target}")
  list(APPEND rewritten "${emulation_build}/${target}")
endforeach()
foreach(name strip_test gathered_rows_test epilogues_test faults_test planted_faults)
  olmoe_rewrite_launches("tests/emulation/${name}.cu" "${name}.cpp")
  list(APPEND rewritten "${emulation_build}/${name}.cpp")
endforeach()

file(GLOB emulator CONFIGURE_DEPENDS "${emulation}/*.cpp")
add_executable(emulation_tests ${emulator} ${rewritten})
target_include_directories(emulation_tests BEFORE PRIVATE "${emulation_build}" "${emulation}/include")
target_link_libraries(emulation_tests PRIVATE test_main olmoe_kernels)
# GCC's -Wmaybe-uninitialized gives false alarms under -fsanitize.
target_compile_options(emulation_tests PRIVATE -O1 -g1 -fno-omit-frame-pointer ${sanitize}
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
target_link_options(emulation_tests PRIVATE ${sanitize})
target_precompile_headers(emulation_tests PRIVATE "${emulation}/cuda_language.h" <ATen/core/Tensor.h> <ATen/ops/empty.h>)

# The same cases as on a GPU, as they are: they need no sanitizer of their own, and so share the precompiled header.
file(GLOB cases CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/tests/kernels/*_cuda_test.cpp")
list(REMOVE_ITEM cases "${CMAKE_SOURCE_DIR}/tests/kernels/experts_cuda_test.cpp"  # CUTLASS
                       "${CMAKE_SOURCE_DIR}/tests/kernels/attention_cuda_test.cpp")  # ATen's and cuDNN's attention
add_library(emulation_cases OBJECT ${cases})
target_link_libraries(emulation_cases PRIVATE test_main olmoe_kernels)
olmoe_reuse_torch_pch(emulation_cases)
target_sources(emulation_tests PRIVATE $<TARGET_OBJECTS:emulation_cases>)

function(olmoe_emulation_test NAME SEED)
  add_test(NAME emulation_${NAME} COMMAND emulation_tests ${ARGN})
  set_tests_properties(emulation_${NAME} PROPERTIES LABELS emulation TIMEOUT 300 ENVIRONMENT
    "OMP_NUM_THREADS=1;UBSAN_OPTIONS=print_stacktrace=1;OLMOE_EMULATION_SEED=${SEED}")
endfunction()
foreach(seed RANGE 1 3)
  olmoe_emulation_test(kernels_seed_${seed} ${seed} "[cuda]~*attention*")
  olmoe_emulation_test(faults_seed_${seed} ${seed} "[emulation]")
endforeach()

# A planted fault must be named in so many words: to end in any other way is a failure.
function(olmoe_emulation_plant FAULT REPORT)
  olmoe_emulation_test(planted_${FAULT} 1 "planted: ${FAULT}")
  set_tests_properties(emulation_planted_${FAULT} PROPERTIES PASS_REGULAR_EXPRESSION "${REPORT}")
endfunction()
olmoe_emulation_plant(row_past_the_end "AddressSanitizer: heap-buffer-overflow.*double_rows")
olmoe_emulation_plant(misaligned_load "runtime error: (load of|reference binding to) misaligned address")
olmoe_emulation_plant(past_dynamic_shared "AddressSanitizer: heap-buffer-overflow.*past_dynamic_shared")
olmoe_emulation_plant(past_static_shared "runtime error: index 64 out of bounds")
olmoe_emulation_plant(host_reads_gpu "AddressSanitizer: use-after-poison")
olmoe_emulation_plant(gathered_row_off_by_one "AddressSanitizer: heap-buffer-overflow.*GatheredRows::index")
olmoe_emulation_plant(gathered_row_of_a_slot "AddressSanitizer: heap-buffer-overflow.*RowsAlongK::copy_next")
olmoe_emulation_plant(strip_takes_the_row_behind "AddressSanitizer: heap-buffer-overflow.*copy_tiles")
olmoe_emulation_plant(map_of_one_expert_too_many "AddressSanitizer: heap-buffer-overflow.*TileCursor::seek")
olmoe_emulation_plant(epilogue_adds_to_the_expert_behind "AddressSanitizer: heap-buffer-overflow.*WeightGradEpilogue")
