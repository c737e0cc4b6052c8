#pragma once

#include <string>

#include "server/json.h"

namespace windowkv::server {

/// A grammar (GBNF) of all JSON objects.
std::string json_grammar();

/// A grammar of the JSON values that a JSON Schema allows. Of its keywords those are understood that OpenAI's
/// structured outputs have, and some more: type, properties, required, additionalProperties, items, minItems,
/// maxItems, enum, const, anyOf, oneOf, minLength, maxLength, $ref to a place in the schema, and annotations.
/// Properties come in the order in which the schema has them, the required ones first. Throws Error for a
/// keyword that is not understood, as ignoring it would allow what the schema does not.
std::string schema_grammar(const Json& schema);

}  // namespace windowkv::server
