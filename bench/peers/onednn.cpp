// logits[N, V] in f32 = hidden[N, H] times weight[V, H] transposed, both bf16, by oneDNN; called by peers.py.
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>

extern "C" int isologit_peer_onednn(const void* hidden, const void* weight, float* logits, std::int64_t rows,
                                    std::int64_t vocab, std::int64_t size) {
  using dnnl::memory;
  try {
    static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const memory::desc source({rows, size}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc weights({size, vocab}, memory::data_type::bf16, memory::format_tag::ba);
    const memory::desc result({rows, vocab}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc plan({source, weights, result}, engine);
    dnnl::matmul(plan).execute(stream, {{DNNL_ARG_SRC, memory(source, engine, const_cast<void*>(hidden))},
                                        {DNNL_ARG_WEIGHTS, memory(weights, engine, const_cast<void*>(weight))},
                                        {DNNL_ARG_DST, memory(result, engine, logits)}});
    stream.wait();
    return 0;
  } catch (const dnnl::error&) {
    return 1;
  }
}
