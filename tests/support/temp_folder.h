#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace windowkv::test {

/// Tests with a folder of their own, empty at first, which goes with them.
class InTempFolder : public ::testing::Test {
 protected:
  InTempFolder() { std::filesystem::create_directories(folder_); }
  ~InTempFolder() override { std::filesystem::remove_all(folder_); }

  std::string at(const std::string& name) const { return (folder_ / name).string(); }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("windowkv_folder_" + std::to_string(getpid()));
};

}  // namespace windowkv::test
