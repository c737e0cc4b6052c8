#include "windowkv/text_stream.h"

#include <algorithm>

#include "support/utf8.h"

namespace windowkv {

TextStream::TextStream(std::vector<std::string> stop, std::function<void(std::string_view)> sink)
    : stop_(std::move(stop)), sink_(std::move(sink)) {
  std::erase_if(stop_, [](const std::string& s) { return s.empty(); });
}

void TextStream::release(size_t bytes) {
  if (bytes == 0) return;
  if (sink_) sink_(std::string_view(held_).substr(0, bytes));
  shown_.append(held_, 0, bytes);
  held_.erase(0, bytes);
}

bool TextStream::push(std::string_view piece) {
  if (stopped_) return true;
  held_ += piece;
  size_t cut = std::string::npos;
  for (const auto& s : stop_) cut = std::min(cut, held_.find(s));
  if (cut != std::string::npos) {
    stopped_ = true;
    release(cut);
    held_.clear();
    return true;
  }
  size_t keep = utf8_incomplete_tail(held_);
  for (const auto& s : stop_)
    for (size_t length = std::min(s.size() - 1, held_.size()); length > keep; --length)
      if (held_.ends_with(std::string_view(s).substr(0, length))) {
        keep = length;
        break;
      }
  release(held_.size() - keep);
  return false;
}

void TextStream::finish() {
  if (!stopped_) release(held_.size());
}

}  // namespace windowkv
