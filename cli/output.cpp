#include "cli/output.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/signals.hpp"
#include "io/read_files.hpp"

namespace isologit::detail::cli {
namespace {

namespace fs = std::filesystem;

bool is_inside(const fs::path& folder, const fs::path& outer) {
  std::error_code error;
  const fs::path inner = fs::canonical(folder, error);
  const fs::path whole = fs::canonical(outer, error);
  if (error) return false;
  return std::mismatch(whole.begin(), whole.end(), inner.begin(), inner.end()).first == whole.end();
}

// Whether a file is one of a folder's, some of which may be links to elsewhere.
bool is_file_of(const struct stat& file, const std::string& folder) {
  std::error_code error;
  const auto options = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator entry(folder, options, error), end; !error && entry != end;
       entry.increment(error)) {
    struct stat status {};
    if (::stat(entry->path().c_str(), &status) != 0) continue;
    if (status.st_dev == file.st_dev && status.st_ino == file.st_ino) return true;
  }
  return false;
}

int report(const Failure& problem) {
  if (problem.message.empty()) return problem.exit_code;  // another process tells it
  std::fputs(fmt::format("isologit: {}\n", problem.message).c_str(), stderr);
  return problem.exit_code;
}

Outcome<void> print(const std::string& text) {
  const bool printed = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (printed) return {};
  return failure(
      fmt::format("cannot write to standard output: {}; nothing was written", std::generic_category().message(errno)));
}

Outcome<void> put_out(Ending& ending) {
  if (const auto unchanged = io::ReadFiles::of_process().check(); !unchanged) return failure(unchanged.error());
  if (ending.file) {
    if (const auto complete = ending.file->complete(); !complete) return failure(complete.error());
  }
  if (noted_signal() != 0) return tl::unexpected(interrupted());
  if (const auto printed = print(ending.text); !printed) return printed;
  if (ending.file) {
    if (const auto moved = ending.file->move(); !moved) return failure(moved.error());
  }
  return {};
}

}  // namespace

Outcome<std::optional<io::NewFile>> begin_output(const std::optional<std::string>& output,
                                                 const std::string& model_folder) {
  note_signals();
  if (!output) return std::nullopt;
  const Result<io::Destination> destination = io::find_destination(*output);
  if (!destination) return failure(fmt::format("--output: {}", destination.error().message));
  if (destination->replaced && io::ReadFiles::of_process().contain(*destination->replaced)) {
    return usage_error(fmt::format("--output: '{}' is the input or a file of the model; name another file", *output));
  }
  if (is_inside(destination->folder, model_folder) ||
      (destination->replaced && is_file_of(*destination->replaced, model_folder))) {
    return usage_error(
        fmt::format("--output: '{}' is in the model's folder '{}'; name a file elsewhere", *output, model_folder));
  }
  Result<io::NewFile> file = io::NewFile::create(*destination);
  if (!file) return failure(fmt::format("--output: {}", file.error().message));
  return std::move(*file);
}

Outcome<Ending> caught(const std::function<Outcome<Ending>()>& run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    return failure("out of memory");
  } catch (const std::exception& error) {
    return failure(fmt::format("unexpected: {}", error.what()));
  }
}

int end_run(Outcome<Ending> ending) {
  if (!ending) return report(ending.error());
  const Outcome<void> done = put_out(*ending);
  return done ? ending->exit_code : report(done.error());
}

}  // namespace isologit::detail::cli
