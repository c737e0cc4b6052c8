#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace windowkv::hub {

/// A model repository, and which of its quantizations is wanted.
struct Repo {
  std::string id;     ///< USER/NAME
  std::string quant;  ///< as given ("Q8_0", in any case), "" for none

  /// USER/NAME[:QUANT]. Throws Error for anything else.
  static Repo parse(const std::string& text);
};

/// A file of a repository.
struct RepoFile {
  std::string path;   ///< in the repository, with its folders
  std::string oid;    ///< what the hub names its content by: SHA-256 of large files, a git hash of others
  int64_t bytes = 0;  ///< 0: not known

  /// The content's SHA-256 in hexadecimal digits, "" where the hub gave none.
  std::string sha256() const { return oid.size() == 64 ? oid : ""; }
};

/// The model that is meant: `name`, or with an empty one the first of repo.quant, without a quantization
/// Q4_K_M, Q8_0 or the first there is, as llama.cpp chooses; of a model in several files all of them, the
/// first one first. Throws Error, with the names of what there is, where the repository has no such file or
/// lacks a part.
std::vector<RepoFile> choose_model(const Repo& repo, const std::vector<RepoFile>& files,
                                   const std::string& name);

/// A path that stays within the folder it is appended to.
bool is_plain_path(const std::string& path);

}  // namespace windowkv::hub
