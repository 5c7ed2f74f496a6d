# Installs a build tree into an empty prefix, then builds and runs the programs beside this file against it: in C++
# through find_package(isologit), in C through pkg-config and the C compiler alone.
#
#   build_dir   the build tree          work_dir  where to put everything; emptied first
#   version     what both must print    c_compiler, cxx_compiler, flags, pkg_config, generator
cmake_minimum_required(VERSION 3.25)

function(run output)
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE out ERROR_VARIABLE err RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "failed (${result}): ${command}\n${out}${err}")
  endif()
  string(STRIP "${out}" out)
  set(${output} "${out}" PARENT_SCOPE)
endfunction()

function(expect_version language printed)
  if(NOT printed STREQUAL version)
    message(FATAL_ERROR "the ${language} program printed '${printed}', expected '${version}'")
  endif()
endfunction()

set(prefix ${work_dir}/prefix)
file(REMOVE_RECURSE ${work_dir})
run(ignored ${CMAKE_COMMAND} --install ${build_dir} --prefix ${prefix})

# C++
run(ignored ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/cpp -B ${work_dir}/cpp -G ${generator}
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_CXX_COMPILER=${cxx_compiler} -DCMAKE_CXX_FLAGS=${flags})
file(STRINGS ${work_dir}/cpp/CMakeCache.txt found REGEX "^isologit_DIR:PATH=${prefix}/")
if(NOT found)
  message(FATAL_ERROR "find_package(isologit) did not find the copy under ${prefix}")
endif()
run(ignored ${CMAKE_COMMAND} --build ${work_dir}/cpp)
run(printed ${work_dir}/cpp/outside)
expect_version("C++" "${printed}")

# C
file(GLOB_RECURSE pc_file ${prefix}/isologit.pc)
cmake_path(GET pc_file PARENT_PATH pc_dir)
set(ENV{PKG_CONFIG_PATH} ${pc_dir})
run(packaged ${pkg_config} --modversion isologit)
expect_version("pkg-config" "${packaged}")
run(pc_cflags ${pkg_config} --cflags isologit)
run(pc_libs ${pkg_config} --libs isologit)
run(libdir ${pkg_config} --variable=libdir isologit)
separate_arguments(c_flags UNIX_COMMAND "${flags} ${pc_cflags}")
separate_arguments(libs UNIX_COMMAND "${pc_libs}")
run(ignored ${c_compiler} -std=c11 -Wall -Wextra -Wpedantic -Wstrict-prototypes -Werror ${c_flags}
  ${CMAKE_CURRENT_LIST_DIR}/c/main.c -o ${work_dir}/outside_c ${libs} -Wl,-rpath,${libdir})
run(printed ${work_dir}/outside_c)
expect_version("C" "${printed}")
