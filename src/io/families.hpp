// What is known of the heads of the model classes of Hugging Face Transformers: families.json, which tests/checkpoints
// finds out by experiment and holds every class to.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::io {

enum class Effect { softcap, multiply, divide };

// Something that a class does to its logits, with a number from the configuration.
struct FamilyStep {
  std::string key;  // a path: "logit_scale", "text_config.final_logit_softcapping"
  Effect effect = Effect::softcap;
  std::optional<float> when_absent;  // none: not applied
};

struct Family {
  std::string model_type;
  std::string architecture;  // the class
  std::string text;          // "text_config", ...: where the text model's configuration is; empty: at the top
  std::vector<std::string> text_types;  // model types of such a text model; the class's own first
  bool flat = false;                    // whether the text model's keys may be at the top as well
  std::string head;                     // the weight's name when it is not the embedding; empty: it always is
  std::string embedding;                // its name when it is; empty: it never is
  std::vector<std::string> also;        // older names of both
  std::string tie_key;                  // which of them; empty: the tensors say so
  bool tie_when_absent = false;
  std::string bias;                  // empty: none
  std::string vocab;                 // the key that says how many logits there are
  std::string hidden;                // the key of the weight's columns; empty: there is none
  std::vector<FamilyStep> steps;     // in their order
  std::vector<std::string> ignored;  // keys that look like steps and are none
  bool takes_last_hidden = false;    // whether the head is given the body's last hidden state as it is
  std::vector<std::string> beside;   // tensors that a checkpoint has besides, near the head
};

// The family of a whole configuration, by its architectures and model_type; an error if it has none that is known.
// source names the document in messages.
Result<const Family*> find_family(const JsonValue& config, const std::string& source);

// The vocab_size of a model_type whose configuration does not say it; 0: not known.
std::int64_t default_vocab_size(std::string_view model_type);

// Whether any class takes this key, without its path, for a step.
bool is_step_of_some_class(std::string_view key);

// The f32 nearest to a number of the document; nothing for anything else, and for numbers outside the range of f32.
std::optional<float> to_f32(const JsonValue& value);

// What to do with a head that is not known, in words.
std::string how_to_name_a_head();

}  // namespace isologit::detail::io
