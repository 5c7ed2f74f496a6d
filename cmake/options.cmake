# isologit_options: what every target of this project is compiled with.
add_library(isologit_options INTERFACE)
target_compile_options(isologit_options INTERFACE
  # One source expression is one IEEE operation: the proofs in the comments count roundings.
  -ffp-contract=off
  # The library reads neither errno nor the exception flags, so selects and conversions may be vectorised.
  -fno-math-errno -fno-trapping-math
  -Wall -Wextra $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wno-missing-field-initializers
  $<$<COMPILE_LANGUAGE:CXX>:-Wold-style-cast>
  $<$<BOOL:${ISOLOGIT_WERROR}>:-Werror>)
if(ISOLOGIT_SANITIZE)
  target_compile_options(isologit_options INTERFACE
    -fsanitize=${ISOLOGIT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(isologit_options INTERFACE -fsanitize=${ISOLOGIT_SANITIZE})
endif()
