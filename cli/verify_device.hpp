// A device of torch in `isologit verify`: the Python package computes there what the library computes here. It is
// handed the data of the families, and gives back bits.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/child_process.hpp"
#include "cli/verify_forward.hpp"

namespace isologit::detail::cli {

class Device {
 public:
  // As torch names it: "cpu", "cuda", "cuda:1". On the CPU it is the torch backend.
  static Outcome<Device> start(const std::string& name, std::chrono::seconds patience = std::chrono::minutes(10));

  // What the vendor calls it.
  const std::string& title() const { return title_; }
  // operations(), made on the device. Not to be outlived by this.
  std::vector<Operation> operations();
  ForwardResults decode();
  // Of the Python process; what is computed after it is nothing. An error of a call is none.
  const std::optional<Failure>& lost() const { return lost_; }

 private:
  using Operands = std::vector<std::pair<const char*, const Elements*>>;

  Device(ChildProcess child, std::string name) : child_(std::move(child)), name_(std::move(name)) {}

  Result<Results> head(const char* operation, const HeadCase& one, const ScoreOptions& options);
  Result<Results> forward(const char* operation, const ForwardCase& one, const ScoreOptions& options);
  Result<Results> ask(const char* operation, nlohmann::json request, const Operands& operands,
                      const ScoreOptions& options);
  Failure told(const Failure& failure) const;
  Failure not_understood(const std::string& answer) const;
  Outcome<nlohmann::json> read_answer();
  Outcome<Results> read_results(const nlohmann::json& answer);

  ChildProcess child_;
  std::string name_, title_;
  std::optional<Failure> lost_;
};

}  // namespace isologit::detail::cli
