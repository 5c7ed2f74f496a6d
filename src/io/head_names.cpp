#include "io/head_names.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "base/text.hpp"

namespace isologit::detail::io {
namespace {

// Tensors that come with a quantised weight: GPTQ and AWQ, compressed-tensors, bitsandbytes, HQQ, AQLM.
constexpr std::array<std::string_view, 8> quantised_parts{"qweight",        "scales", "weight_packed", "weight.absmax",
                                                          "weight_scale_2", "SCB",    "W_q",           "codes"};

// The scales of an f8 weight. Either name is of what values are multiplied by.
constexpr std::array<std::string_view, 2> f8_scales{"weight_scale_inv", "weight_scale"};

// The name of the scales of a module's weight, or nothing.
std::string scales_in(const TensorNames& names, std::string_view module) {
  for (std::string_view part : f8_scales) {
    if (std::string name = base::concat(module, ".", part); names.contains(name)) return name;
  }
  return {};
}

bool is_number(std::string_view part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// How many names with dots between them; 0 if one of them is a number, as layers have.
std::size_t parts_of(std::string_view name) {
  std::size_t count = 0;
  for (;; ++count) {
    const std::size_t dot = name.find('.');
    if (is_number(name.substr(0, dot))) return 0;
    if (dot == std::string_view::npos) return count + 1;
    name.remove_prefix(dot + 1);
  }
}

// Whether a checkpoint of the family has this tensor, by its whole name or without the name of the model before it.
bool is_known(const Family& family, std::string_view name) {
  const auto is_it = [&](std::string_view known) {
    return known == name || (known.ends_with(name) && known[known.size() - name.size() - 1] == '.');
  };
  return std::any_of(family.beside.begin(), family.beside.end(), is_it) ||
         std::any_of(family.also.begin(), family.also.end(), is_it) || is_it(family.head) || is_it(family.embedding) ||
         is_it(family.bias);
}

class Chooser {
 public:
  Chooser(const TensorNames& names, const HfConfig& config, const std::string& source)
      : names_(names), config_(config), family_(*config.family), source_(source) {}

  Result<HeadNames> choose() {
    HeadNames chosen;
    chosen.weight = present(false);
    if (chosen.weight.empty()) {
      if (auto found = choose_embedding(); !found) return tl::unexpected(found.error());
      chosen.weight = present(true);
      chosen.tied = true;
    }
    chosen.bias = bias();
    chosen.scales = scales_in(names_, module_of(chosen.weight));
    if (auto done = check_parts(chosen); !done) return tl::unexpected(done.error());
    if (auto done = check_beside(chosen); !done) return tl::unexpected(done.error());
    return chosen;
  }

 private:
  // Classes that have the bias outside of the head's module, as BERT's do, may save it inside as well: that one is
  // added.
  std::string bias() const {
    if (family_.bias.ends_with(".bias") && !family_.head.empty()) {
      if (std::string own = base::concat(module_of(family_.head), ".bias"); names_.contains(own)) return own;
    }
    return names_.contains(family_.bias) ? family_.bias : std::string();
  }

  // The names that the head's weight may have; of the embedding, when it is the head.
  std::vector<std::string> candidates(bool tied) const {
    const std::string& own = tied ? family_.embedding : family_.head;
    if (own.empty()) return {};
    std::vector<std::string> all{own};
    for (const std::string& other : family_.also) {
      if (own_last(other) == own_last(own)) all.push_back(other);
    }
    return all;
  }

  // "lm_head.weight" of "language_model.lm_head.weight".
  static std::string_view own_last(std::string_view name) {
    const std::size_t dot = name.rfind('.', name.rfind('.') - 1);
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
  }

  // A module has a weight, or the tensors of a quantised one.
  bool has_module(std::string_view module) const {
    return std::any_of(quantised_parts.begin(), quantised_parts.end(),
                       [&](std::string_view part) { return names_.contains(base::concat(module, ".", part)); });
  }

  std::string present(bool tied) const {
    for (const std::string& name : candidates(tied)) {
      if (names_.contains(name) || has_module(module_of(name))) return name;
    }
    return {};
  }

  Result<void> choose_embedding() const {
    if (auto part = changed_part(); !part.empty()) return tl::unexpected(changes(part));
    std::vector<std::string> looked = candidates(false);
    const std::string embedding = present(true);
    if (embedding.empty()) {
      for (std::string& name : candidates(true)) looked.push_back(std::move(name));
      return fail(StatusCode::not_found, base::concat(source_, ": no head found; looked for ", base::join(looked, ", "),
                                                      ". ", how_to_name_a_head()));
    }
    if (!config_.tied) {
      return fail(StatusCode::not_found,
                  base::concat(source_, ": no head found; looked for ", base::join(looked, ", "), ", and as ",
                               family_.tie_key, " is false the embedding ", embedding, " is not the head"));
    }
    return {};
  }

  // A tensor inside of the head's module, which has no weight.
  std::string changed_part() const {
    for (const std::string& candidate : candidates(false)) {
      const std::string inside = base::concat(module_of(candidate), ".");
      for (auto name = names_.lower_bound(inside); name != names_.end() && name->starts_with(inside); ++name) {
        if (!is_known(family_, *name)) return *name;
      }
    }
    return {};
  }

  Error changes(std::string_view tensor) const {
    return {StatusCode::unsupported,
            base::concat(source_, ": tensor ", base::in_quotes(tensor), " is not one that ", family_.architecture,
                         " has, and may change what the head does. ", how_to_name_a_head())};
  }

  // What an f8 head's inputs are divided by before they are rounded to f8 too.
  Error rounds_hidden_states(std::string_view tensor) const {
    return {StatusCode::unsupported,
            base::concat(source_, ": tensor ", base::in_quotes(tensor),
                         ": engines round the head's hidden states to f8 by this scale, which is another function than "
                         "the head's weight has. ",
                         how_to_name_a_head())};
  }

  // What else lies inside of the head's module, and with a tied head inside of the embedding.
  Result<void> check_parts(const HeadNames& chosen) const {
    const std::string_view module = module_of(chosen.weight);
    for (std::string_view part : quantised_parts) {
      const std::string name = base::concat(module, ".", part);
      if (names_.contains(name)) return tl::unexpected(quantised_head(source_, module, base::in_quotes(name), config_));
    }
    if (const std::string name = base::concat(module, ".input_scale"); names_.contains(name)) {
      return tl::unexpected(rounds_hidden_states(name));
    }
    const std::string head = base::concat(module_of(family_.head.empty() ? family_.embedding : family_.head), ".");
    const std::string own = base::concat(module, ".");
    const std::string inner = base::concat(".", head);
    for (const std::string& name : names_) {
      if (name == chosen.weight || name == chosen.bias || name == chosen.scales) continue;
      if (is_known(family_, name) || name.starts_with("mtp.")) continue;
      const bool inside = name.starts_with(own) || name.starts_with(head) ||
                          (name.find(inner) != std::string::npos && parts_of(name) > 0);
      if (inside) return tl::unexpected(changes(name));
    }
    return {};
  }

  // What lies beside the head: tensors and small modules of the same parent.
  Result<void> check_beside(const HeadNames& chosen) const {
    const std::string_view module = module_of(family_.head.empty() ? chosen.weight : family_.head);
    const std::string_view parent = module.substr(0, module.rfind('.') + 1);
    for (const std::string& name : names_) {
      if (!name.starts_with(parent)) continue;
      const std::size_t parts = parts_of(std::string_view(name).substr(parent.size()));
      if (parts == 0 || parts > 2 || is_known(family_, name) || name.starts_with("mtp.")) continue;
      if (name == chosen.weight || name == chosen.bias || name == chosen.scales) continue;
      return tl::unexpected(changes(name));
    }
    return {};
  }

  const TensorNames& names_;
  const HfConfig& config_;
  const Family& family_;
  const std::string& source_;
};

}  // namespace

std::string_view module_of(std::string_view tensor) {
  return tensor.substr(0, tensor.rfind('.') == std::string_view::npos ? 0 : tensor.rfind('.'));
}

Error quantised_head(const std::string& source, std::string_view module, const std::string& found,
                     const HfConfig& config) {
  std::string said;
  if (config.quantization) {
    said = base::concat(
        " (quantization_config: quant_method ", base::in_quotes(config.quantization->method), ", ", module, " ",
        config.quantization->leaves_out(module) ? "listed as not converted" : "not listed as left out", ")");
  }
  return {StatusCode::unsupported, base::concat(source, ": the head ", module, " is quantised: found ", found, said,
                                                ". Of quantised heads, only f8 with scales is read; use a checkpoint "
                                                "whose head is f8, bf16, f16, f32 or f64")};
}

Result<HeadNames> choose_head(const TensorNames& names, const HfConfig& config, const std::string& source) {
  return Chooser(names, config, source).choose();
}

Result<HeadNames> given_head(const TensorNames& names, const GivenHead& given, const std::string& source) {
  if (!names.contains(given.tensor)) {
    return fail(StatusCode::not_found, base::concat(source, ": --head: no tensor ", base::in_quotes(given.tensor)));
  }
  HeadNames chosen{given.tensor, {}, false, scales_in(names, module_of(given.tensor))};
  if (std::string bias = base::concat(module_of(given.tensor), ".bias"); names.contains(bias)) {
    chosen.bias = std::move(bias);
  }
  return chosen;
}

}  // namespace isologit::detail::io
