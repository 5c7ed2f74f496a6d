#include "base/asking.hpp"

#include <utility>

namespace isologit::detail::base {
namespace {

thread_local Asking* of_this_thread = nullptr;

}  // namespace

Asking::Asking(std::function<bool()> go_on) : go_on_(std::move(go_on)), help_(this) {}

Asking::Help::Help(Asking* asking) : outer_(of_this_thread) { of_this_thread = asking; }

Asking::Help::~Help() { of_this_thread = outer_; }

Asking* Asking::of_thread() { return of_this_thread; }

void Asking::ask_if_due() {
  if (stopped() || std::this_thread::get_id() != caller_ || Clock::now() - last_ < kEvery) return;
  if (!go_on_()) stop();
  asked();
}

void go_on_or_throw() {
  Asking* const asking = Asking::of_thread();
  if (asking == nullptr) return;
  asking->ask_if_due();
  if (asking->stopped()) throw Stopped();
}

}  // namespace isologit::detail::base
