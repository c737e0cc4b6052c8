// Results of evaluations that survive a kill.
#include "eval/jsonl_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "support/file.h"
#include "support/temp_folder.h"
#include "windowkv/error.h"

namespace windowkv::test {
namespace {

class Log : public InTempFolder {
 protected:
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(at(name)) << content;
  }
};

TEST_F(Log, CutsOffOnlyALineOfItsOwn) {
  write("notes", "a line without an end");
  EXPECT_THROW(eval::JsonlLog(at("notes")), Error);
  EXPECT_EQ(read_file(at("notes")), "a line without an end");
  write("log", "{\"key\":\"a\"}\n{\"key\":\"b\",\"sco");
  EXPECT_EQ(eval::JsonlLog(at("log")).rows().size(), 1u);
  EXPECT_EQ(read_file(at("log")), "{\"key\":\"a\"}\n");
}

TEST_F(Log, GoesIntoPipesAndDevicesToo) {
  {
    eval::JsonlLog log("/dev/null");
    EXPECT_FALSE(log.resumable());
    log.append({{"key", "1"}});
    EXPECT_TRUE(log.has("1"));
  }
  if (access("/dev/full", W_OK) == 0) {
    eval::JsonlLog log("/dev/full");
    EXPECT_THROW(log.append({{"key", "1"}}), Error);
  }
  { eval::JsonlLog log(at("results")); }
  EXPECT_EQ(files(), 0u) << "a file without a row stays";
  { eval::JsonlLog(at("results")).append({{"key", "1"}}); }
  EXPECT_TRUE(eval::JsonlLog(at("results")).resumable());
  EXPECT_TRUE(eval::JsonlLog(at("results")).has("1"));
}

}  // namespace
}  // namespace windowkv::test
