// The one list of kernels, best first, the reference last. A line here enrols a kernel in dispatch, in the tests, in
// the bench and in `isologit kernels`; the function it names is defined in the kernel's own file.
#define ISOLOGIT_KERNELS(X) \
  X(portable)               \
  X(reference)
