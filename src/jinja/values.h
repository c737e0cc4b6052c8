#pragma once

#include <minja/minja.hpp>
#include <string>

namespace windowkv::jinja {

using minja::Value;

// Python's rules, where minja has its own.

/// Empty lists, objects and texts count as false.
bool truth(const Value& value);
/// As str() has it; "None" for null.
std::string text_of(const Value& value);
bool equal(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
/// Null where it has no such element; negative numbers count from the end. Texts give characters.
Value element(const Value& container, const Value& key);
/// container[begin:end:step]; null: left out. Throws std::runtime_error.
Value slice(const Value& container, const Value& begin, const Value& end, const Value& step);
/// What a loop goes over: elements, keys, characters.
std::vector<Value> elements(const Value& container);
/// A text's characters, each as text.
std::vector<std::string> characters(const std::string& text);
/// a op b, where op is one of + - * / // % **. Throws std::runtime_error.
Value arithmetic(const std::string& op, const Value& a, const Value& b);
/// a < b.
bool less(const Value& a, const Value& b);

/// json.dumps().
struct JsonForm {
  int indent = -1;  ///< −1: all in one line
  bool ascii = false;
  bool sorted = false;
  std::string item = ", ", key = ": ";
};
std::string to_json(const Value& value, const JsonForm& form);

}  // namespace windowkv::jinja
