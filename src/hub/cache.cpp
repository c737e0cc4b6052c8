#include "hub/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <system_error>

#include "support/file.h"
#include "windowkv/error.h"

namespace windowkv::hub {

namespace fs = std::filesystem;

namespace {

fs::path cache_folder() {
  struct Place {
    const char* variable;
    fs::path within;
  };
  const Place places[] = {{"LLAMA_CACHE", ""},
                          {"HF_HUB_CACHE", ""},
                          {"HUGGINGFACE_HUB_CACHE", ""},
                          {"HF_HOME", "hub"},
                          {"XDG_CACHE_HOME", "huggingface/hub"},
                          {"HOME", ".cache/huggingface/hub"}};
  for (const auto& [variable, within] : places)
    if (const char* value = std::getenv(variable); value != nullptr && *value != '\0')
      return within.empty() ? fs::path(value) : fs::path(value) / within;
  throw Error("no folder for downloaded models: set HOME or LLAMA_CACHE");
}

std::string folder_name(const std::string& repo_id) {
  auto name = "models--" + repo_id;
  return name.replace(name.find('/'), 1, "--");
}

[[noreturn]] void cannot_write(const fs::path& path, const std::error_code& error) {
  throw Error(fmt::format("{}: cannot write: {}; set LLAMA_CACHE to use another folder for downloaded models",
                          path.string(), error.message()));
}

}  // namespace

bool is_commit(const std::string& text) {
  return text.size() == 40 && std::ranges::all_of(text, [](unsigned char c) { return std::isxdigit(c); });
}

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) cannot_write(folder, error);
}

RepoCache::RepoCache(const std::string& repo_id) : folder_(cache_folder() / folder_name(repo_id)) {}

std::vector<std::string> RepoCache::commits() const {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_ / "snapshots", error))
    if (const auto name = entry.path().filename().string(); is_commit(name)) out.push_back(name);
  if (error && error != std::errc::no_such_file_or_directory)
    throw Error(fmt::format("{}: cannot read: {}", folder_.string(), error.message()));
  std::string last;
  std::getline(std::ifstream(folder_ / "refs" / "main") >> std::ws, last);
  std::ranges::sort(out, {}, [&](const std::string& commit) { return std::pair(commit != last, commit); });
  return out;
}

std::vector<RepoFile> RepoCache::files() const {
  std::vector<RepoFile> out;
  for (const auto& commit : commits()) {
    std::vector<RepoFile> of_commit;
    std::error_code error;
    for (const auto& entry : fs::recursive_directory_iterator(snapshot(commit), error)) {
      if (!fs::is_regular_file(entry.path(), error)) continue;
      const auto path = entry.path().lexically_relative(snapshot(commit)).generic_string();
      if (std::ranges::find(out, path, &RepoFile::path) == out.end()) of_commit.push_back({path, "", 0});
    }
    std::ranges::sort(of_commit, {}, &RepoFile::path);
    out.insert(out.end(), of_commit.begin(), of_commit.end());
  }
  return out;
}

fs::path RepoCache::path_of(const RepoFile& file) const {
  for (const auto& commit : commits())
    if (fs::exists(snapshot(commit) / file.path)) return snapshot(commit) / file.path;
  throw Error(fmt::format("{}: no longer exists", (folder_ / file.path).string()));
}

fs::path RepoCache::content_path(const std::string& commit, const RepoFile& file) const {
  const auto named = snapshot(commit) / file.path;
  std::error_code error;
  // A file system without links has the content under its own name.
  return file.oid.empty() || (fs::exists(named, error) && !fs::is_symlink(named, error))
             ? named
             : folder_ / "blobs" / file.oid;
}

fs::path RepoCache::place(const std::string& commit, const RepoFile& file) const {
  const auto content = content_path(commit, file);
  auto named = snapshot(commit) / file.path;
  std::error_code error;
  if (content != named && !(fs::exists(named, error) && fs::equivalent(named, content, error))) {
    make_folders(named.parent_path());
    fs::remove(named, error);  // a link to what is gone
    fs::create_symlink(fs::relative(content, named.parent_path()), named, error);
    if (error) fs::rename(content, named, error);
    if (error) cannot_write(named, error);
  }
  make_folders(folder_ / "refs");
  AtomicFile((folder_ / "refs" / "main").string()).commit(commit);
  return named;
}

}  // namespace windowkv::hub
