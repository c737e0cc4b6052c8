// Where output goes: files that appear whole or not at all, links, pipes and devices.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "support/file.h"
#include "support/files.h"
#include "support/output_target.h"
#include "support/temp_folder.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

namespace fs = std::filesystem;

class OutputFile : public InTempFolder {
 protected:
  void write(const std::string& name, const std::string& content) const {
    const auto file = open_output(at(name));
    file->commit(content);
  }
};

TEST_F(OutputFile, IsThereOnlyOnceItIsWhole) {
  {
    const auto file = open_output(at("a"));
    EXPECT_FALSE(fs::exists(at("a")));
    EXPECT_EQ(files(), 1u);
  }
  EXPECT_EQ(files(), 0u);
  write("a", "one");
  EXPECT_EQ(read_file(at("a")), "one");
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFile, TakesTheLongestNames) {
  const std::string name(255, 'n');
  write(name, "x");
  EXPECT_EQ(read_file(at(name)), "x");
}

TEST_F(OutputFile, KeepsTheModeOfWhatItReplaces) {
  write("a", "old");
  chmod(at("a").c_str(), 0640);
  write("a", "new");
  struct stat now {};
  stat(at("a").c_str(), &now);
  EXPECT_EQ(now.st_mode & 0777, 0640u);
}

TEST_F(OutputFile, WritesThroughLinks) {
  fs::create_directory(at("there"));
  write("there/real", "old");
  fs::create_symlink("there/real", at("link"));
  fs::create_symlink("link", at("second"));
  write("second", "new");
  EXPECT_EQ(read_file(at("there/real")), "new");
  EXPECT_TRUE(fs::is_symlink(at("link")) && fs::is_symlink(at("second")));
  fs::create_symlink("there/later", at("dangling"));
  write("dangling", "made");
  EXPECT_EQ(read_file(at("there/later")), "made");
  fs::create_symlink("circle", at("circle"));
  EXPECT_THROW(open_output(at("circle")), Error);
  EXPECT_THROW(open_output(at("there")), Error);
}

TEST_F(OutputFile, UnfinishedOnesCanBeRemovedFromASignalHandler) {
  const auto one = open_output(at("a"));
  const auto other = open_output(at("b"));
  write("c", "whole");
  EXPECT_EQ(files(), 3u);
  remove_unfinished_files();
  EXPECT_EQ(files(), 1u);
}

TEST_F(OutputFile, ComesInPieces) {
  const std::string piece(10'000, 'p');
  open_output(at("a"))->commit([&](const AtomicFile::Write& add) {
    for (int i = 0; i < 20; ++i) add(piece.data(), piece.size());
    add(nullptr, 0);
    add("end", 3);
  });
  EXPECT_EQ(fs::file_size(at("a")), 200'003u);
  EXPECT_TRUE(read_file(at("a")).ends_with("ppend"));
}

TEST_F(OutputFile, NothingIsLeftWhereItsPiecesFail) {
  write("a", "old");
  const auto fails = [](const AtomicFile::Write& add) {
    add("new", 3);
    throw Error("no more");
  };
  EXPECT_THROW(open_output(at("a"))->commit(fails), Error);
  EXPECT_EQ(read_file(at("a")), "old");
  EXPECT_EQ(files(), 1u);
  if (access("/dev/full", W_OK) == 0) {
    // All pieces are asked for, the first that does not fit is what the Error tells of.
    EXPECT_THROW(open_output("/dev/full")->commit([](const AtomicFile::Write& add) {
      const std::string piece(1 << 20, 'p');
      for (int i = 0; i < 3; ++i) add(piece.data(), piece.size());
    }),
                 Error);
  }
}

TEST_F(OutputFile, IsNotOverwrittenInPlaceWhereItMustNotBe) {
  // A file that can be written in a folder that cannot, even by root.
  const std::string path = "/proc/self/comm";
  const auto name = read_file(path);
  EXPECT_NO_THROW(AtomicFile{path});
  EXPECT_THROW(AtomicFile(path, AtomicFile::InPlace::kNever), Error);
  EXPECT_EQ(read_file(path), name);
}

TEST_F(OutputFile, GoesToDescriptorsThatAreOpen) {
  const int file = open(at("log").c_str(), O_WRONLY | O_CREAT, 0600);
  ASSERT_EQ(::write(file, "head ", 5), 5);
  const auto name = "/dev/fd/" + std::to_string(file);
  EXPECT_TRUE(OutputTarget::of(name).stream);
  open_output(name)->commit("tail");
  close(file);
  EXPECT_EQ(read_file(at("log")), "head tail");
}

TEST_F(OutputFile, AFifoWaitsForItsReader) {
  mkfifo(at("fifo").c_str(), 0600);
  std::string got;
  std::thread reader([&] {
    usleep(200'000);
    got = read_file(at("fifo"));
  });
  open_output(at("fifo"))->commit("through");
  reader.join();
  EXPECT_EQ(got, "through");
}

}  // namespace
}  // namespace windowkv::test
