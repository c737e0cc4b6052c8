#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "hub/model_request.h"

namespace windowkv::cli {

/// --hf-repo and its kin: a model from Hugging Face in place of a file.
struct HubFlags {
  hub::ModelRequest request;

  /// `model`: the flag of a file, which is not needed where a repository is given.
  void add_to(CLI::App& group, CLI::Option& model);
  bool given() const { return !request.repo.empty(); }
  /// Path of the model, downloaded where the cache does not have it, with progress on standard error. As
  /// hub::find_model.
  std::string find() const;
};

}  // namespace windowkv::cli
