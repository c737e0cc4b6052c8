#pragma once

#include <span>
#include <string>

#include "server/json.h"

namespace windowkv::server {

/// A grammar (GBNF) of all JSON objects.
std::string json_grammar();

/// A grammar of the JSON values that a JSON Schema allows. Of its keywords those are understood that OpenAI's
/// structured outputs have, and some more: type, properties, required, additionalProperties, items, minItems,
/// maxItems, enum, const, anyOf, oneOf, minLength, maxLength, $ref to a place in the schema, and annotations.
/// Properties come in the order in which the schema has them, the required ones first. Throws Error for a
/// keyword that is not understood, by itself or beside another, as ignoring it would allow what the schema
/// does not.
std::string schema_grammar(const Json& schema);

/// A grammar whose `root` is that expression, in which schema0, schema1 and so on stand for the values that
/// these schemas allow, and `space` for optional white space. Throws Error as schema_grammar does.
std::string grammar_with(const std::string& root, std::span<const Json> schemas);

/// The text as a literal of a grammar.
std::string grammar_literal(std::string_view text);

}  // namespace windowkv::server
