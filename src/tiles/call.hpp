// What surrounds the work of every call: the library's floating-point modes, the processors that were asked for, the
// caller's callbacks, and what is thrown told as a failure.
#pragma once

#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/asking.hpp"
#include "base/fp_env.hpp"
#include "base/parties.hpp"
#include "base/processors.hpp"
#include "base/text.hpp"
#include "isologit/status.hpp"

namespace isologit::detail::tiles {

// The caller's callback, called in the caller's own floating-point modes, by the work where that has a share to tell
// and by parallel_for in all other phases. One that throws asks to stop.
class Progress {
 public:
  Progress(const std::function<bool(double)>& callback, base::FpEnvironment& environment)
      : callback_(callback), environment_(environment) {}

  // As the work is to call it; empty where there is no callback.
  std::function<bool(double)> function() {
    if (!callback_) return {};
    asking_.emplace([this] { return call(share_); });
    return [this](double share) {
      const bool goes_on = call(share);
      asking_->asked();
      if (!goes_on) asking_->stop();
      return goes_on;
    };
  }

  // What it threw, as a sentence; else empty.
  const std::string& thrown() const { return thrown_; }

 private:
  bool call(double share) {
    share_ = share;
    return environment_.outside([&] { return call_outside(share); });
  }

  bool call_outside(double share) {
    try {
      return callback_(share);
    } catch (const std::exception& error) {
      thrown_ = base::concat(". It threw an exception: ", error.what());
    } catch (...) {
      thrown_ = ". It threw something that is no std::exception";
    }
    return false;
  }

  const std::function<bool(double)>& callback_;
  base::FpEnvironment& environment_;
  std::string thrown_;
  double share_ = 0;  // what it was last told
  std::optional<base::Asking> asking_;
};

// A function of the caller that exchanges bytes, called in the caller's own floating-point modes. One that throws
// fails, and the error tells it.
template <class Function>
Function outside(const char* name, const Function& function, base::FpEnvironment& environment) {
  return [name, &function, &environment](auto own, std::vector<std::vector<std::byte>>& all) {
    return environment.outside([&] {
      try {
        return function(own, all);
      } catch (const std::exception& error) {
        throw base::ExchangeError(
            {StatusCode::cancelled, base::concat("peers: ", name, " threw an exception: ", error.what())});
      }
    });
  };
}

inline std::optional<Peers> outside(const std::optional<Peers>& peers, base::FpEnvironment& environment) {
  if (!peers) return peers;
  Peers own = *peers;
  own.gather = outside("gather", peers->gather, environment);
  if (own.own_rows) own.own_rows->scatter = outside("scatter", peers->own_rows->scatter, environment);
  return own;
}

// work(options) with all that around it; the result is what it returns. `what` says what the call does and what becomes
// of its outputs when memory runs out.
template <class Options, class Work>
auto call(const Options& options, std::string_view what, Work work) -> decltype(work(options)) {
  base::FpEnvironment environment;
  Progress progress(options.progress, environment);
  try {
    const auto processors = base::ProcessorScope::enter(options.processors);
    if (!processors) return tl::unexpected(processors.error());
    Options own = options;
    own.progress = progress.function();
    if constexpr (requires { own.peers; }) own.peers = outside(options.peers, environment);
    auto result = work(own);
    if (!result && !progress.thrown().empty()) result.error().message += progress.thrown();
    return result;
  } catch (const base::Stopped&) {
    return fail(StatusCode::cancelled,
                base::concat("cancelled by the progress callback while ", what, progress.thrown()));
  } catch (const base::ExchangeError& failed) {
    return tl::unexpected(failed.error());
  } catch (const std::bad_alloc&) {
  } catch (const std::length_error&) {  // of a container that could not be as long as it would have to be
  }
  return fail(StatusCode::out_of_memory, base::concat("out of memory while ", what));
}

}  // namespace isologit::detail::tiles
