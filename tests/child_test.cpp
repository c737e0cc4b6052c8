#include "support/child.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>

#include "windowkv/error.h"

namespace windowkv {
namespace {

std::string refusal(const std::function<std::string()>& work, const ChildLimits& limits = {}) {
  try {
    run_in_child("the work", work, limits);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Child, GivesItsTextBack) {
  const std::string much(size_t{1} << 20, 'x');  // more than a pipe holds
  EXPECT_EQ(run_in_child("the work", [&] { return much; }), much);
}

TEST(Child, SaysHowItEnds) {
  EXPECT_EQ(refusal([]() -> std::string { throw Error("no such thing"); }), "the work fails: no such thing");
  EXPECT_EQ(refusal([]() -> std::string { throw std::bad_alloc(); }),
            "the work takes more than 1024 MiB of memory");
  EXPECT_TRUE(refusal([] {
                std::raise(SIGKILL);
                return std::string();
              }).starts_with("the work crashes"));
  EXPECT_EQ(refusal(
                [] {
                  for (std::atomic<int> i = 0;;) ++i;
                  return std::string();
                },
                {.seconds = 0.25}),
            "the work is not done after 0.25 s");
}

// What a thread holds at the fork, nobody gives back in the copy.
TEST(Child, ALockThatAnotherThreadHeldAtTheForkIsNotWaitedFor) {
  std::mutex mutex;
  std::atomic<bool> held = false;
  std::thread holder([&] {
    const std::lock_guard lock(mutex);
    held = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  });
  while (!held) std::this_thread::yield();
  EXPECT_EQ(run_in_child("the work",
                         [&] {
                           const std::lock_guard lock(mutex);
                           return std::string("done");
                         }),
            "done");
  holder.join();
}

TEST(Child, WhatWaitsForEverIsRefused) {
  EXPECT_EQ(refusal([] {
              pause();
              return std::string();
            }),
            "the work waits for ever, in each of 10 copies of the process");
}

/// What a shell's command writes, or how it is refused.
std::string output(const std::string& command, const std::string& input = "",
                   const ChildLimits& limits = {}) {
  try {
    return run_program("the program", {find_program("sh"), "-c", command}, input, limits, size_t{1} << 20);
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Program, ReadsAndWrites) {
  EXPECT_EQ(output("cat", "some text"), "some text");
  EXPECT_EQ(output("wc -c", std::string(size_t{3} << 20, 'x')), "3145728\n");  // more than a pipe holds
  EXPECT_EQ(output("true", std::string(size_t{3} << 20, 'x')), "");            // read or not
}

TEST(Program, SaysHowItEnds) {
  EXPECT_EQ(output("echo text; exit 3"), "the program fails");
  EXPECT_EQ(output("kill -SEGV $$"), "the program crashes (Segmentation fault)");
  EXPECT_EQ(output("while true; do :; done", "", {.seconds = 0.25}), "the program is not done after 0.25 s");
  EXPECT_EQ(output("sleep 60", "", {.seconds = 0.05}), "the program is not done after 0.05 s");
  EXPECT_EQ(output("cat /dev/zero"), "the program gives more than 1 MiB");
  EXPECT_THROW(run_program("the program", {"/nowhere"}, "", {}, 1), CannotRun);
  EXPECT_THROW(
      run_program("the program", {find_program("sh"), "-c", "sleep 60"}, "", {}, 1, [] { return true; }),
      Cancelled);
  EXPECT_EQ(find_program("no-such-program"), "");
}

TEST(Program, SeesNothingOfItsParent) {
  const int open = dup(STDOUT_FILENO);
  // Its own folder is what ls itself has open.
  EXPECT_EQ(output("ls /proc/self/fd | wc -l"), "4\n");
  close(open);
  setenv("WINDOWKV_TEST_SECRET", "s", 1);
  EXPECT_EQ(output("echo $WINDOWKV_TEST_SECRET"), "\n");
  unsetenv("WINDOWKV_TEST_SECRET");
}

}  // namespace
}  // namespace windowkv
