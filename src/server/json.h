#pragma once

#include <nlohmann/json_fwd.hpp>

namespace windowkv::server {

/// Objects keep their order: a schema's properties are written in it, and answers are easier to read.
using Json = nlohmann::ordered_json;

}  // namespace windowkv::server
