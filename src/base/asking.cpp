#include "base/asking.hpp"

#include <utility>

namespace isologit::detail::base {
namespace {

thread_local Asking* of_this_thread = nullptr;

}  // namespace

Asking::Asking(std::function<bool()> go_on) : go_on_(std::move(go_on)), outer_(of_this_thread) {
  of_this_thread = this;
}

Asking::~Asking() { of_this_thread = outer_; }

Asking* Asking::of_thread() { return of_this_thread; }

void Asking::ask_if_due() {
  if (stopped() || Clock::now() - last_ < kEvery) return;
  stopped_ = !go_on_();
  asked();
}

void go_on_or_throw() {
  Asking* const asking = Asking::of_thread();
  if (asking == nullptr) return;
  asking->ask_if_due();
  if (asking->stopped()) throw Stopped();
}

}  // namespace isologit::detail::base
