# What goes into a Python wheel: the shared library beside the package's modules, what is known of
# models' heads, and the command in bin/.
# A wheel cannot hold links, so the library has no version in its name.
install(TARGETS isologit LIBRARY DESTINATION isologit)
install(FILES ${PROJECT_SOURCE_DIR}/src/io/families.json DESTINATION isologit)
if(ISOLOGIT_CLI)
  set_target_properties(isologit_cli PROPERTIES INSTALL_RPATH "$ORIGIN/..")
  install(TARGETS isologit_cli RUNTIME DESTINATION isologit/bin)
endif()

# Of the wheel in python/isologit_cuda this alone.
if(TARGET isologit_cuda)
  install(FILES ${cuda_library} DESTINATION isologit COMPONENT cuda)
endif()
