#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>

#include "server/json.h"

namespace windowkv::server {

/// The fields of an object, each checked as it is read; null counts as missing. The object must outlive it.
class Fields {
 public:
  /// `prefix`: of the fields' names in errors, such as "kv.". Throws ApiError for what is no object.
  explicit Fields(const Json& object, std::string prefix = "");

  /// Null where it is missing.
  const Json* find(const char* name) const;
  /// Throws ApiError, which names the field.
  [[noreturn]] void refuse(const char* name, const std::string& why) const;

  // These leave the value as it is where the field is missing, and throw ApiError for a wrong type.
  void read(const char* name, bool& value) const;
  void read(const char* name, std::string& value) const;
  /// Numbers are taken as text.
  void read(const char* name, std::optional<std::string>& value) const;
  template <typename T>
  void read(const char* name, T& value, double low, double high) const {
    const auto* field = find(name);
    if (field == nullptr) return;
    if (std::is_integral_v<T> ? !field->is_number_integer() : !field->is_number())
      refuse(name, std::is_integral_v<T> ? "must be an integer" : "must be a number");
    const auto number = field->get<double>();
    if (!(number >= low && number <= high))
      refuse(name, fmt::format("is {}; it must be {} to {}", field->dump(), low, high));
    value = static_cast<T>(number);
  }

 private:
  const Json& object_;
  std::string prefix_;
};

}  // namespace windowkv::server
