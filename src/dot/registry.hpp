// The one list of kernels, of each arithmetic the best first, the reference last. A line here enrols a kernel in
// dispatch, in the tests, in the bench and in `isologit kernels`; the function it names is defined in the kernel's own
// file.
#if defined(__x86_64__)
#define ISOLOGIT_NATIVE_KERNELS(X) X(avx512) X(avx2) X(avx512_fast) X(avx2_fast)
#elif defined(__aarch64__)
#define ISOLOGIT_NATIVE_KERNELS(X) X(neon) X(neon_fast)
#else
#define ISOLOGIT_NATIVE_KERNELS(X)
#endif

#define ISOLOGIT_KERNELS(X)  \
  ISOLOGIT_NATIVE_KERNELS(X) \
  X(portable)                \
  X(portable_fast)           \
  X(reference)
