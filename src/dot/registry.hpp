// The one list of kernels, of each arithmetic the best first, the reference last. A line here enrols a kernel in
// dispatch, in the tests, in the bench and in `isologit kernels`: its name (NAME_kernel() is defined in a file of its
// own), instruction set, arithmetic, and the function of dot.cpp that tells whether it runs here.
#if defined(__x86_64__)
#define ISOLOGIT_NATIVE_KERNELS(X)              \
  X(amx, "AMX-INT8", exact, needs_amx)          \
  X(avx512, "AVX-512", exact, needs_avx512)     \
  X(avx2, "AVX2 FMA", exact, needs_avx2)        \
  X(amx_fast, "AMX-BF16", fast, needs_amx_bf16) \
  X(avx512_fast, "AVX-512", fast, needs_avx512) \
  X(avx2_fast, "AVX2 FMA", fast, needs_avx2)
#elif defined(__aarch64__)
#define ISOLOGIT_NATIVE_KERNELS(X)      \
  X(neon, "NEON", exact, runs_anywhere) \
  X(neon_fast, "NEON", fast, runs_anywhere)
#else
#define ISOLOGIT_NATIVE_KERNELS(X)
#endif

#define ISOLOGIT_KERNELS(X)                    \
  ISOLOGIT_NATIVE_KERNELS(X)                   \
  X(portable, "any", exact, runs_anywhere)     \
  X(portable_fast, "any", fast, runs_anywhere) \
  X(reference, "any", exact, runs_anywhere)
