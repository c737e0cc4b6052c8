#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jinja/functions.h"

// Nodes for minja's trees that do as Jinja does where minja's own differ.
namespace windowkv::jinja {

using minja::Location;
using Names = std::shared_ptr<minja::Context>;
using Expression = std::shared_ptr<minja::Expression>;
using Node = std::shared_ptr<minja::TemplateNode>;

/// Whether the expression's value is there, be it none.
bool is_defined(const minja::Expression& expression, const Names& names);

Expression make_binary(const Location& at, const std::string& op, Expression left, Expression right);
Expression make_not(const Location& at, Expression inner);
/// then if condition else otherwise; `otherwise` may be null.
Expression make_choice(const Location& at, Expression condition, Expression then, Expression otherwise);
/// base.key, base[key].
Expression make_member(const Location& at, Expression base, Expression key);
/// base[begin:end:step], each of which may be null.
Expression make_slice(const Location& at, Expression base, Expression begin, Expression end, Expression step);
/// A filter, or a test.
Expression make_call(const Location& at, Function function, Expression subject,
                     minja::ArgumentsExpression args);
/// A function of a value's own where it has one of that name; else the method, which may be null.
Expression make_method(const Location& at, const std::string& name, Expression base,
                       minja::ArgumentsExpression args);
Expression make_defined(const Location& at, Expression inner);
Expression make_none_test(const Location& at, Expression inner);

Node make_output(const Location& at, Expression expression);
/// A condition that is null always holds.
Node make_if(const Location& at, std::vector<std::pair<Expression, Node>> branches);
/// `condition` and `otherwise` may be null.
Node make_for(const Location& at, std::vector<std::string> names, Expression iterable, Expression condition,
              Node body, Node otherwise);
/// A parameter without a default has a null expression.
Node make_macro(const Location& at, std::string name, minja::Expression::Parameters parameters, Node body);
/// {% filter %}, or {% set name | filter %} where `name` is not empty.
Node make_filtered(const Location& at, std::string name, Node body, Function function,
                   minja::ArgumentsExpression args);

}  // namespace windowkv::jinja
