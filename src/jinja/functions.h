#pragma once

#include <string>

#include "jinja/values.h"

namespace windowkv::jinja {

/// What a filter, test or method is called with; the first argument is what it is applied to.
struct Call {
  minja::ArgumentsValue args;
  std::shared_ptr<minja::Context> names;
  bool undefined = false;  ///< the subject is not there at all

  const Value& subject() const { return args.args.front(); }
  /// The i-th argument behind the subject, or that name; null where it is missing.
  Value at(size_t i, const char* name) const;
  Value at(size_t i, const char* name, const Value& otherwise) const;
  std::string shown() const;  ///< the subject as it would be printed
  std::string text() const;   ///< of the subject, which must be one
  std::string text(size_t i, const char* name) const;
};

using Function = Value (*)(const Call& call);

// Null where there is no such one.
Function filter(const std::string& name);
Function test(const std::string& name);
Function method(const std::string& name);

/// The functions that templates may call by name.
void add_functions(minja::Context& names);

/// What no text has around it: blanks, or the characters named.
std::string stripped(const std::string& text, bool left, bool right, const std::string& characters = "");
std::string in_case(std::string text, bool upper);
std::string capitalized(const std::string& text);
std::string titled(std::string text);
/// Every `from`, or the first `most`, replaced.
std::string replaced(const std::string& text, const std::string& from, const std::string& to, int64_t most);

}  // namespace windowkv::jinja
