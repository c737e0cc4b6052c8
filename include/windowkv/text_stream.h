#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace windowkv {

/// Turns token pieces into text that may be shown: holds back unfinished UTF-8 characters and anything that
/// may yet become a stop string.
class TextStream {
 public:
  TextStream(std::vector<std::string> stop, std::function<void(std::string_view)> sink);

  /// Returns true once a stop string was met; nothing is taken after that.
  bool push(std::string_view piece);
  /// Releases what was held back.
  void finish();
  const std::string& text() const { return shown_; }

 private:
  void release(size_t bytes);

  std::vector<std::string> stop_;
  std::function<void(std::string_view)> sink_;
  std::string held_;
  std::string shown_;
  bool stopped_ = false;
};

}  // namespace windowkv
