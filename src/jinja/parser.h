#pragma once

#include <memory>
#include <string>

namespace minja {
class TemplateNode;
}

namespace windowkv {

/// A chat template as a tree of minja's, which renders it. minja's own parser lacks much of Jinja (methods of
/// results, tests with arguments, \u escapes, raw blocks, strings that follow one another) and reads some of
/// it otherwise (the precedence of ~, white space before {{). Throws JinjaError, with the line.
std::shared_ptr<minja::TemplateNode> parse_jinja(const std::string& source);

}  // namespace windowkv
