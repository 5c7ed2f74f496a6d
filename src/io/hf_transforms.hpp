// Which configuration keys change the logits, for which model families, and how.
#pragma once

#include <string>

#include "io/json.hpp"
#include "isologit/head.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

// config is the text model's object and model_type its own type; source names the document in messages.
//
//   final_logit_softcapping   any family       c * tanh(z / c)
//   logits_soft_cap           recurrent_gemma  c * tanh(z / c)
//   output_logit_soft_cap     xlstm            c * tanh(z / c)
//   logit_scale               cohere*          z * s
//   logits_scaling            granite*         z / d
//   logits_scaling            hyperclovax*     z * s
//   lm_head_multiplier        falcon_h1*       z * s
//
// null, and an absent key, mean "not applied", except that an absent key of a family whose model class has a default
// of its own (Gemma 2's cap of 30, Cohere's scale of 0.0625) means that default. Outside its families a key with a
// value other than null or 1 is an error, as its meaning is not known: never a silently wrong logit.
// A number is rounded to f32 once, from its decimal text.
Result<Transforms> parse_transforms(const JsonValue& config, const std::string& model_type, const std::string& source);

}  // namespace isologit::detail::io
