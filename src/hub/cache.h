#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "hub/repo.h"

namespace windowkv::hub {

/// A repository's folder in the cache that llama.cpp and Hugging Face's own tools share:
///
///     models--USER--NAME/blobs/OID                the contents
///                       /snapshots/COMMIT/PATH    links to them, or files
///                       /refs/main                the commit that was seen last
class RepoCache {
 public:
  /// In the folder that LLAMA_CACHE, HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME (its hub/), XDG_CACHE_HOME
  /// or HOME (their huggingface/hub/) says, the first that is set. Throws Error where none is.
  explicit RepoCache(const std::string& repo_id);

  const std::filesystem::path& folder() const { return folder_; }

  /// What is there of the commit that was seen last, or else of others, in the order of names.
  std::vector<RepoFile> files() const;
  /// Where files() has it.
  std::filesystem::path path_of(const RepoFile& file) const;

  /// Where the file's content is kept, or shall be.
  std::filesystem::path content_path(const std::string& commit, const RepoFile& file) const;
  /// Its path under its own name, linked to its content, which is there; notes the commit as the last seen.
  /// Throws Error where the folder cannot be written.
  std::filesystem::path place(const std::string& commit, const RepoFile& file) const;

 private:
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  /// Commits with files, the one seen last first.
  std::vector<std::string> commits() const;

  std::filesystem::path folder_;
};

/// Makes the folder and those above it. Throws Error where that fails.
void make_folders(const std::filesystem::path& folder);

bool is_commit(const std::string& text);

}  // namespace windowkv::hub
