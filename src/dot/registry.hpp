// The one list of kernels, best first, the reference last. A line here enrols a kernel in dispatch, in the tests, in
// the bench and in `isologit kernels`; the function it names is defined in the kernel's own file.
#if defined(__x86_64__)
#define ISOLOGIT_X86_KERNELS(X) X(avx2)
#else
#define ISOLOGIT_X86_KERNELS(X)
#endif

#define ISOLOGIT_KERNELS(X) \
  ISOLOGIT_X86_KERNELS(X)   \
  X(portable)               \
  X(reference)
