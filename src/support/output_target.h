#pragma once

#include <string>

namespace windowkv {

/// What the path of an output flag stands for, symbolic links followed.
struct OutputTarget {
  std::string path;
  bool stream = false;  ///< a pipe, device or descriptor: written as it comes, neither read back nor replaced
  int descriptor = -1;  ///< of a stream, where the path names one that is open, as /dev/stdout does

  /// Throws Error for a folder, and for links in a circle.
  static OutputTarget of(const std::string& path);

  /// A descriptor to write the stream through. Waits some seconds for the reader of a FIFO; throws Error
  /// where none comes or the stream cannot be written, and Cancelled where a signal ends the wait.
  int open_stream() const;
};

}  // namespace windowkv
