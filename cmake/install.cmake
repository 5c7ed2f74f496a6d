# install(), find_package(isologit) and pkg-config isologit.
include(CMakePackageConfigHelpers)

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

configure_file(cmake/isologit.pc.in isologit.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/isologit.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
