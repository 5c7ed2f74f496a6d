# install(), find_package(isologit) and pkg-config isologit.
include(CMakePackageConfigHelpers)

# Before 1.0 a minor version may change the interface.
set_target_properties(isologit PROPERTIES
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
install(TARGETS isologit EXPORT isologit-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/isologit DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(ISOLOGIT_CLI)
  install(TARGETS isologit_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/isologit)
install(EXPORT isologit-targets NAMESPACE isologit:: DESTINATION ${package_dir})
configure_package_config_file(cmake/isologit-config.cmake.in isologit-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(isologit-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/isologit-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/isologit-config-version.cmake DESTINATION ${package_dir})

# Relative to the .pc file, so that the installed tree may be moved (cmake --install --prefix, DESTDIR).
set(pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH pc_prefix ${pc_dir} ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH pc_includedir ${pc_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
# A C program that links the static library needs what the C++ compiler would have added of itself.
set(pc_static_libs "")
if(NOT BUILD_SHARED_LIBS)
  set(cxx_only ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
  list(REMOVE_ITEM cxx_only ${CMAKE_C_IMPLICIT_LINK_LIBRARIES})
  list(REMOVE_DUPLICATES cxx_only)
  list(TRANSFORM cxx_only PREPEND " -l" OUTPUT_VARIABLE pc_static_libs)
  list(JOIN pc_static_libs "" pc_static_libs)
  string(APPEND pc_static_libs " -pthread")
endif()
configure_file(cmake/isologit.pc.in isologit.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/isologit.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
