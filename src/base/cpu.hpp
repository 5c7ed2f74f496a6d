// What the machine offers: instruction sets, and how many threads the process may use.
#pragma once

namespace isologit::detail::base {

// Each is true only where both the processor and the operating system support it.
struct CpuFeatures {
  bool avx2_fma = false;
  bool f16c = false;
  bool avx512 = false;  // F, BW, DQ and VL
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_bf16 = false;  // these two also need request_amx() before the first tile instruction
  bool amx_int8 = false;
};

// Detected once.
const CpuFeatures& cpu();

// Asks the system, once per process, for leave to use the AMX tiles; false if it refuses or there are none.
bool request_amx();

// The processors in the calling thread's affinity mask; where the system does not say, all.
int available_processors();

// The lesser of these and the cgroup's cpu quota rounded up; at least 1. Both may change while a process runs: the
// mask is read at each call, the quota once a second.
int available_threads();

}  // namespace isologit::detail::base
