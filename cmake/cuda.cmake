# The CUDA library, where nvcc is: a shared library of its own with a static CUDA runtime, so that the others stay as
# they are. By commands, since CMake 3.25 knows no C++20 for nvcc.
find_program(ISOLOGIT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
set(ISOLOGIT_CUDA ON CACHE STRING "Build the CUDA library: OFF, ON where nvcc 12 or later is found, or REQUIRED")
if(ISOLOGIT_CUDA STREQUAL "REQUIRED" AND NOT ISOLOGIT_NVCC)
  message(FATAL_ERROR "nvcc is not found in PATH, CUDA_HOME/bin or /usr/local/cuda/bin; expected CUDA's compiler 12 or "
    "later, of NVIDIA's toolkit or PyPI's nvidia-cuda-nvcc. ISOLOGIT_NVCC=PATH names one.")
endif()
if(NOT ISOLOGIT_CUDA OR NOT ISOLOGIT_NVCC OR ISOLOGIT_SANITIZE OR CMAKE_CROSSCOMPILING)
  return()
endif()

set(ISOLOGIT_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "Compute capabilities; PTX of the last is added for later ones")
set(cuda_targets "")
foreach(architecture IN LISTS ISOLOGIT_CUDA_ARCHITECTURES)
  list(APPEND cuda_targets -gencode=arch=compute_${architecture},code=sm_${architecture})
  set(cuda_last ${architecture})
endforeach()
list(APPEND cuda_targets -gencode=arch=compute_${cuda_last},code=compute_${cuda_last})
# Contraction is off: the proofs count roundings. ptxas tells of registers and spills; tests/cuda reads that.
set(cuda_options -std=c++20 -O3 -fmad=false -Xptxas -v -Xcompiler=-fPIC,-fvisibility=hidden,-Wall
  -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include)

set(cuda_sources attention.cu backward.cu capi.cu check_forward.cpp check_request.cpp forward.cu given.cu logits_bf16.cu
  logits_f16.cu logits_f32.cu sample.cu score.cu transforms.cu wgmma.cu)
# As CMake has it for languages that it knows: a compiler cache, or none.
set(CMAKE_CUDA_COMPILER_LAUNCHER "$ENV{CMAKE_CUDA_COMPILER_LAUNCHER}" CACHE STRING "What nvcc is run by")
set(cuda_dir ${CMAKE_BINARY_DIR}/cuda)
file(MAKE_DIRECTORY ${cuda_dir})
set(cuda_objects "")
foreach(source IN LISTS cuda_sources)
  set(object ${cuda_dir}/${source}.o)
  set(source_targets ${cuda_targets})
  if(source STREQUAL "wgmma.cu")  # instructions that no other device has, of a library for whichever
    set(source_targets -gencode=arch=compute_90a,code=sm_90a)
  endif()
  add_custom_command(OUTPUT ${object}
    COMMAND sh -c "\"$@\" 2> ${object}.log || { cat ${object}.log >&2; exit 1; }" nvcc
      ${CMAKE_CUDA_COMPILER_LAUNCHER} ${ISOLOGIT_NVCC} ${cuda_options} ${source_targets}
      -MD -MT cuda/${source}.o -MF ${object}.d -c ${PROJECT_SOURCE_DIR}/src/cuda/${source} -o ${object}
    DEPENDS ${PROJECT_SOURCE_DIR}/src/cuda/${source} DEPFILE ${object}.d
    COMMENT "nvcc ${source}" VERBATIM)
  list(APPEND cuda_objects ${object})
endforeach()
set(cuda_library ${cuda_dir}/libisologit_cuda.so)
add_custom_command(OUTPUT ${cuda_library}
  COMMAND ${ISOLOGIT_NVCC} -shared -cudart=static ${cuda_targets} -Xlinker=--exclude-libs,ALL ${cuda_objects} -o ${cuda_library}
  DEPENDS ${cuda_objects} COMMENT "Linking libisologit_cuda.so" VERBATIM)
add_custom_target(isologit_cuda ALL DEPENDS ${cuda_library})
