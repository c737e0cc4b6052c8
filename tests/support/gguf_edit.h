#pragma once

#include <gguf.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace windowkv::test {

/// What an edit may change: metadata through ggml's gguf functions, and which tensors are written.
struct GgufEdit {
  gguf_context* meta;
  /// Drops a tensor from the file.
  void remove_tensor(const std::string& name) { removed.push_back(name); }
  /// Writes a tensor of zeros in the place of the one there is, or as a new one.
  void replace_tensor(const std::string& name, std::vector<int64_t> shape, ggml_type type = GGML_TYPE_F32) {
    replaced.push_back({name, std::move(shape), type});
  }

  std::vector<std::string> removed;
  struct Replaced {
    std::string name;
    std::vector<int64_t> shape;
    ggml_type type;
  };
  std::vector<Replaced> replaced;
};

/// Writes an edited copy of a GGUF into the temporary folder and returns its path.
std::string edit_gguf(const std::string& source, std::string_view name,
                      const std::function<void(GgufEdit&)>& edit);

/// Gives the model another one's vocabulary and chat template, of as many tokens.
void take_vocabulary(GgufEdit& edit, const std::string& from);

/// Writes a GGUF's tensors into `count` files of the temporary folder, NAME-00001-of-00003.gguf and so on, as
/// llama-gguf-split does, and returns their paths.
std::vector<std::string> split_gguf(const std::string& source, std::string_view name, int count);

}  // namespace windowkv::test
