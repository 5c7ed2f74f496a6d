// isologit verify --device, with programs in the place of Python that do not do what it does.
#include "cli/verify_device.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

#include "fixture.hpp"
#include "process.hpp"

namespace isologit::test {
namespace {

using detail::cli::Device;

class VerifyDevice : public Workspace {
 protected:
  std::string script(const std::string& text) const {
    const std::string file = path("python");
    std::ofstream(file) << "#!/bin/sh\n" << text << "\n";
    std::filesystem::permissions(file, std::filesystem::perms::owner_all);
    return file;
  }
  static Finished verify(const std::string& python) {
    return run_command({"verify", "--device", "cuda"}, [&] { ::setenv("ISOLOGIT_PYTHON", python.c_str(), 1); });
  }
  // What standard error says of a run that fails so; "" if it ends otherwise.
  static std::string failure_of(const std::string& python, int exit_code = 1) {
    const Finished finished = verify(python);
    return finished.exit_code == exit_code && finished.out.empty() ? finished.err : "";
  }
};

constexpr const char* kReady = "echo '{\"title\": \"a device\"}'; read request; ";

TEST_F(VerifyDevice, SaysWhatToInstall) {
  EXPECT_EQ(failure_of("/nowhere/python"),
            "isologit: --device: '/nowhere/python' cannot be run: No such file or directory; expected a Python with "
            "isologit and torch: pip install 'isologit[torch]', or name one by ISOLOGIT_PYTHON\n");
  const std::string bare = failure_of(script("exec python3 -I -S \"$@\""));
  EXPECT_NE(bare.find("it needs the Python package isologit with torch, and "), std::string::npos) << bare;
  EXPECT_NE(bare.find("has no module 'isologit': pip install 'isologit[torch]' in it"), std::string::npos) << bare;
}

TEST_F(VerifyDevice, TellsHowTheProcessEnded) {
  const std::string python = path("python");
  const std::string told = "isologit: --device cuda: '" + python + "' ";
  EXPECT_EQ(failure_of(script("exit 3")), told + "has ended with exit status 3\n");
  EXPECT_EQ(failure_of(script("kill -9 $$")), told + "was ended by signal 9 (Killed)\n");
  EXPECT_EQ(failure_of(script("exec >&-; sleep 100")), told + "has closed its output\n");
  EXPECT_EQ(failure_of(script(std::string(kReady) + "exit 4")), told + "has ended with exit status 4\n");
  EXPECT_EQ(failure_of(script(std::string(kReady) + "echo '{\"results\": [[\"lse\", \"f32\", 9, 1]]}'; exit 5")),
            told + "has ended with exit status 5\n");
}

TEST_F(VerifyDevice, TellsAnAnswerThatIsNone) {
  const std::string told = "isologit: --device cuda: '" + path("python") + "' has answered ";
  EXPECT_TRUE(failure_of(script("echo hello")).starts_with(told + "\"hello\"; expected "));
  EXPECT_TRUE(failure_of(script("head -c 3000000 /dev/zero")).find("without an end of line") != std::string::npos);
  for (const char* answer : {"hello", "[]", "{\"results\": 5}", "{\"results\": [[\"lse\", \"f64\", 1, 1]]}",
                             "{\"results\": [[\"lse\", \"f32\", -1, 1]]}",
                             "{\"results\": [[\"lse\", \"f32\", 99999999999, 1]]}", "{\"results\": [[]]}"}) {
    const std::string err = failure_of(script(std::string(kReady) + "echo '" + answer + "'; sleep 100"));
    EXPECT_TRUE(err.starts_with(told)) << answer << ": " << err;
  }
}

TEST_F(VerifyDevice, TellsWhatPythonRefuses) {
  EXPECT_EQ(failure_of(script("echo '{\"error\": \"--device: no\"}'")), "isologit: --device: no\n");
  EXPECT_EQ(failure_of(script("echo '{\"error\": \"no\", \"usage\": true}'"), 2), "isologit: no\n");
  EXPECT_EQ(run_command({"verify", "--device", "cpu", "--all"}).exit_code, 2);
  EXPECT_EQ(run_command({"verify", "--device", "cpu", "--kernel", "portable"}).exit_code, 2);
}

// Other results than those recorded are wrong, and so are errors of calls; neither ends it.
TEST_F(VerifyDevice, CountsWhatIsWrong) {
  const Finished finished = verify(
      script("echo '{\"title\": \"a device\"}'; while read request; do echo '{\"error\": \"a call fails\"}'; done"));
  EXPECT_EQ(finished.exit_code, 1) << finished.err;
  EXPECT_NE(finished.out.find("cuda, logits: a call fails\n"), std::string::npos) << finished.out;
  EXPECT_NE(finished.out.find("cuda, decode: a call fails\n"), std::string::npos) << finished.out;
  EXPECT_NE(finished.out.find("a device: NOT every bit is right"), std::string::npos) << finished.out;
}

TEST_F(VerifyDevice, DoesNotWaitForEver) {
  ::setenv("ISOLOGIT_PYTHON", script("exec sleep 100").c_str(), 1);
  const auto device = Device::start("cuda", std::chrono::seconds(1));
  ::unsetenv("ISOLOGIT_PYTHON");
  ASSERT_FALSE(device);
  EXPECT_NE(device.error().message.find("has not answered for 1 s"), std::string::npos) << device.error().message;
}

TEST_F(VerifyDevice, IsInterrupted) {
  const auto begin = std::chrono::steady_clock::now();
  ::setenv("ISOLOGIT_PYTHON", script("echo waiting >&2; exec sleep 100").c_str(), 1);
  const Finished finished = interrupt_command({"verify", "--device", "cuda"}, "waiting");
  ::unsetenv("ISOLOGIT_PYTHON");
  EXPECT_EQ(finished.exit_code, 130) << finished.err;
  EXPECT_EQ(finished.err, "waiting\r\nisologit: interrupted; nothing was written\r\n");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

}  // namespace
}  // namespace isologit::test
