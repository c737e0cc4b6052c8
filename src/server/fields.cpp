#include "server/fields.h"

#include "server/api_error.h"

namespace windowkv::server {

Fields::Fields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {
  if (object.is_object()) return;
  const auto name = prefix_.empty() ? "" : prefix_.substr(0, prefix_.size() - 1);
  throw ApiError(400, (name.empty() ? "the body" : name) + " must be a JSON object", name);
}

const Json* Fields::find(const char* name) const {
  const auto it = object_.find(name);
  return it != object_.end() && !it->is_null() ? &*it : nullptr;
}

void Fields::refuse(const char* name, const std::string& why) const {
  throw ApiError(400, fmt::format("{}{} {}", prefix_, name, why), prefix_ + name);
}

void Fields::read(const char* name, bool& value) const {
  const auto* field = find(name);
  if (field == nullptr) return;
  if (!field->is_boolean()) refuse(name, "must be true or false");
  value = field->get<bool>();
}

void Fields::read(const char* name, std::string& value) const {
  const auto* field = find(name);
  if (field == nullptr) return;
  if (!field->is_string()) refuse(name, "must be a string");
  value = field->get<std::string>();
}

void Fields::read(const char* name, std::optional<std::string>& value) const {
  const auto* field = find(name);
  if (field == nullptr) return;
  if (!field->is_number() && !field->is_string()) refuse(name, "must be a string or a number");
  value = field->is_number() ? field->dump() : field->get<std::string>();
}

}  // namespace windowkv::server
