#include "jinja/nodes.h"

#include <algorithm>

namespace windowkv::jinja {

namespace {

using minja::Context;

class Binary final : public minja::Expression {
 public:
  Binary(const Location& at, std::string op, jinja::Expression left, jinja::Expression right)
      : Expression(at), op_(std::move(op)), left_(std::move(left)), right_(std::move(right)) {}

 protected:
  Value do_evaluate(const Names& names) const override {
    auto left = left_->evaluate(names);
    if (op_ == "and") return truth(left) ? right_->evaluate(names) : left;
    if (op_ == "or") return truth(left) ? left : right_->evaluate(names);
    const auto right = right_->evaluate(names);
    if (op_ == "==") return equal(left, right);
    if (op_ == "!=") return !equal(left, right);
    if (op_ == "<") return less(left, right);
    if (op_ == ">") return less(right, left);
    if (op_ == "<=") return !less(right, left);
    if (op_ == ">=") return !less(left, right);
    if (op_ == "in") return contains(right, left);
    if (op_ == "~") return shown(*left_, left, names) + shown(*right_, right, names);
    return arithmetic(op_, left, right);
  }

 private:
  static std::string shown(const minja::Expression& expression, const Value& value, const Names& names) {
    return value.is_null() && !is_defined(expression, names) ? "" : text_of(value);
  }

  std::string op_;
  jinja::Expression left_, right_;
};

class Not final : public minja::Expression {
 public:
  Not(const Location& at, jinja::Expression inner) : Expression(at), inner_(std::move(inner)) {}

 protected:
  Value do_evaluate(const Names& names) const override { return !truth(inner_->evaluate(names)); }

 private:
  jinja::Expression inner_;
};

class Choice final : public minja::Expression {
 public:
  Choice(const Location& at, jinja::Expression condition, jinja::Expression then, jinja::Expression otherwise)
      : Expression(at),
        condition_(std::move(condition)),
        then_(std::move(then)),
        otherwise_(std::move(otherwise)) {}

  /// The one that counts; null for none.
  const minja::Expression* chosen(const Names& names) const {
    return truth(condition_->evaluate(names)) ? then_.get() : otherwise_.get();
  }

 protected:
  Value do_evaluate(const Names& names) const override {
    const auto* one = chosen(names);
    return one != nullptr ? one->evaluate(names) : Value();
  }

 private:
  jinja::Expression condition_, then_, otherwise_;
};

class Member final : public minja::Expression {
 public:
  Member(const Location& at, jinja::Expression base, jinja::Expression key)
      : Expression(at), base_(std::move(base)), key_(std::move(key)) {}

  bool there(const Names& names) const {
    const auto base = base_->evaluate(names), key = key_->evaluate(names);
    if (base.is_object()) return key.is_hashable() && base.contains(key);
    return !element(base, key).is_null();
  }

 protected:
  Value do_evaluate(const Names& names) const override {
    const auto base = base_->evaluate(names);
    const auto key = key_->evaluate(names);
    if (base.is_null() && !is_defined(*base_, names)) {
      const auto* variable = dynamic_cast<const minja::VariableExpr*>(base_.get());
      throw std::runtime_error((variable != nullptr ? "\"" + variable->get_name() + "\""
                                                    : "what should have \"" + text_of(key) + "\"") +
                               " is not defined");
    }
    return element(base, key);
  }

 private:
  jinja::Expression base_, key_;
};

class Slice final : public minja::Expression {
 public:
  Slice(const Location& at, jinja::Expression base, jinja::Expression begin, jinja::Expression end,
        jinja::Expression step)
      : Expression(at),
        base_(std::move(base)),
        begin_(std::move(begin)),
        end_(std::move(end)),
        step_(std::move(step)) {}

 protected:
  Value do_evaluate(const Names& names) const override {
    const auto value = [&](const jinja::Expression& e) { return e ? e->evaluate(names) : Value(); };
    return slice(base_->evaluate(names), value(begin_), value(end_), value(step_));
  }

 private:
  jinja::Expression base_, begin_, end_, step_;
};

class FunctionCall final : public minja::Expression {
 public:
  FunctionCall(const Location& at, Function function, jinja::Expression subject,
               minja::ArgumentsExpression args)
      : Expression(at), function_(function), subject_(std::move(subject)), args_(std::move(args)) {}

 protected:
  Value do_evaluate(const Names& names) const override {
    Call call{args_.evaluate(names), names};
    call.args.args.insert(call.args.args.begin(), subject_->evaluate(names));
    call.undefined = call.subject().is_null() && !is_defined(*subject_, names);
    return function_(call);
  }

 private:
  Function function_;
  jinja::Expression subject_;
  minja::ArgumentsExpression args_;
};

class MethodCall final : public minja::Expression {
 public:
  MethodCall(const Location& at, std::string name, jinja::Expression base, minja::ArgumentsExpression args)
      : Expression(at), name_(std::move(name)), base_(std::move(base)), args_(std::move(args)) {}

 protected:
  Value do_evaluate(const Names& names) const override {
    const auto base = base_->evaluate(names);
    auto args = args_.evaluate(names);
    if (base.is_object())
      if (const auto own = element(base, name_); own.is_callable()) return own.call(names, args);
    const auto function = method(name_);
    if (function == nullptr || base.is_null())
      throw std::runtime_error(text_of(base) + " has no method " + name_);
    Call call{std::move(args), names};
    call.args.args.insert(call.args.args.begin(), base);
    return function(call);
  }

 private:
  std::string name_;
  jinja::Expression base_;
  minja::ArgumentsExpression args_;
};

class Defined final : public minja::Expression {
 public:
  Defined(const Location& at, jinja::Expression inner) : Expression(at), inner_(std::move(inner)) {}

 protected:
  Value do_evaluate(const Names& names) const override { return is_defined(*inner_, names); }

 private:
  jinja::Expression inner_;
};

class IsNone final : public minja::Expression {
 public:
  IsNone(const Location& at, jinja::Expression inner) : Expression(at), inner_(std::move(inner)) {}

 protected:
  Value do_evaluate(const Names& names) const override {
    return inner_->evaluate(names).is_null() && is_defined(*inner_, names);
  }

 private:
  jinja::Expression inner_;
};

class Output final : public minja::TemplateNode {
 public:
  Output(const Location& at, jinja::Expression expression)
      : TemplateNode(at), expression_(std::move(expression)) {}

 protected:
  void do_render(std::ostringstream& out, const Names& names) const override {
    const auto value = expression_->evaluate(names);
    if (!value.is_null() || is_defined(*expression_, names)) out << text_of(value);
  }

 private:
  jinja::Expression expression_;
};

class If final : public minja::TemplateNode {
 public:
  If(const Location& at, std::vector<std::pair<jinja::Expression, Node>> branches)
      : TemplateNode(at), branches_(std::move(branches)) {}

 protected:
  void do_render(std::ostringstream& out, const Names& names) const override {
    for (const auto& [condition, body] : branches_)
      if (!condition || truth(condition->evaluate(names))) return body->render(out, names);
  }

 private:
  std::vector<std::pair<jinja::Expression, Node>> branches_;
};

class For final : public minja::TemplateNode {
 public:
  For(const Location& at, std::vector<std::string> variables, jinja::Expression iterable,
      jinja::Expression condition, Node body, Node otherwise)
      : TemplateNode(at),
        variables_(std::move(variables)),
        iterable_(std::move(iterable)),
        condition_(std::move(condition)),
        body_(std::move(body)),
        otherwise_(std::move(otherwise)) {}

 protected:
  void do_render(std::ostringstream& out, const Names& names) const override {
    auto items = elements(iterable_->evaluate(names));
    if (condition_)
      std::erase_if(items,
                    [&](const Value& item) { return !truth(condition_->evaluate(inside(names, item))); });
    if (items.empty() && otherwise_) return otherwise_->render(out, names);
    for (size_t i = 0; i < items.size(); ++i) {
      const auto names_inside = inside(names, items[i]);
      names_inside->set("loop", loop(items, i));
      try {
        body_->render(out, names_inside);
      } catch (const minja::LoopControlException& e) {
        if (e.control_type == minja::LoopControlType::Break) break;
      }
    }
  }

 private:
  /// What is set in one round is not there in the next.
  Names inside(const Names& names, const Value& item) const {
    auto made = Context::make(Value::object(), names);
    if (variables_.size() == 1) {
      made->set(variables_.front(), item);
      return made;
    }
    const auto parts = elements(item);
    if (parts.size() != variables_.size())
      throw std::runtime_error(text_of(item) + " has not as many parts as there are names");
    for (size_t i = 0; i < parts.size(); ++i) made->set(variables_[i], parts[i]);
    return made;
  }

  static Value loop(const std::vector<Value>& items, size_t i) {
    const auto n = static_cast<int64_t>(items.size()), at = static_cast<int64_t>(i);
    auto loop = Value::object();
    loop.set("index", at + 1);
    loop.set("index0", at);
    loop.set("revindex", n - at);
    loop.set("revindex0", n - at - 1);
    loop.set("length", n);
    loop.set("first", at == 0);
    loop.set("last", at == n - 1);
    if (i > 0) loop.set("previtem", items[i - 1]);
    if (i + 1 < items.size()) loop.set("nextitem", items[i + 1]);
    loop.set("cycle", Value::callable([i](const Names&, minja::ArgumentsValue& args) {
               return args.args.empty() ? Value() : args.args[i % args.args.size()];
             }));
    return loop;
  }

  std::vector<std::string> variables_;
  jinja::Expression iterable_, condition_;
  Node body_, otherwise_;
};

/// Where parameters that were left out are not defined, whatever has their name outside.
class MacroScope final : public Context {
 public:
  MacroScope(const Names& outside, std::vector<std::string> hidden)
      : Context(Value::object(), outside), hidden_(std::move(hidden)) {}

  Value get(const Value& key) override { return hides(key) ? Value() : Context::get(key); }
  bool contains(const Value& key) override { return !hides(key) && Context::contains(key); }

 private:
  bool hides(const Value& key) {
    return !values_.contains(key) && key.is_string() &&
           std::ranges::find(hidden_, key.get<std::string>()) != hidden_.end();
  }

  std::vector<std::string> hidden_;
};

class Macro final : public minja::TemplateNode {
 public:
  Macro(const Location& at, std::string name, minja::Expression::Parameters parameters, Node body)
      : TemplateNode(at),
        name_(std::move(name)),
        parameters_(std::move(parameters)),
        body_(std::move(body)) {}

 protected:
  void do_render(std::ostringstream&, const Names& names) const override {
    // The names know the macro, which must not keep them.
    names->set(name_, Value::callable([this, outside = std::weak_ptr(names)](const Names& caller,
                                                                             minja::ArgumentsValue& args) {
                 return call(outside.lock(), caller, args);
               }));
  }

 private:
  Value call(const Names& outside, const Names& caller, minja::ArgumentsValue& args) const {
    if (args.args.size() > parameters_.size()) throw std::runtime_error("too many arguments for " + name_);
    auto given = Value::object();
    for (size_t i = 0; i < args.args.size(); ++i) given.set(parameters_[i].first, args.args[i]);
    for (const auto& [name, value] : args.kwargs) given.set(name, value);
    std::vector<std::string> missing;
    for (const auto& [name, otherwise] : parameters_)
      if (!given.contains(name) && !otherwise) missing.push_back(name);
    const auto scope = std::make_shared<MacroScope>(outside ? outside : caller, std::move(missing));
    if (caller->contains("caller")) scope->set("caller", caller->get("caller"));
    for (const auto& name : given.keys()) scope->set(name, given.at(name));
    for (const auto& [name, otherwise] : parameters_)
      if (!given.contains(name) && otherwise) scope->set(name, otherwise->evaluate(scope));
    return body_->render(scope);
  }

  std::string name_;
  minja::Expression::Parameters parameters_;
  Node body_;
};

class Filtered final : public minja::TemplateNode {
 public:
  Filtered(const Location& at, std::string name, Node body, Function function,
           minja::ArgumentsExpression args)
      : TemplateNode(at),
        name_(std::move(name)),
        body_(std::move(body)),
        function_(function),
        args_(std::move(args)) {}

 protected:
  void do_render(std::ostringstream& out, const Names& names) const override {
    Call call{args_.evaluate(names), names};
    call.args.args.insert(call.args.args.begin(), Value(body_->render(names)));
    const auto value = function_(call);
    if (name_.empty())
      out << text_of(value);
    else
      names->set(name_, value);
  }

 private:
  std::string name_;
  Node body_;
  Function function_;
  minja::ArgumentsExpression args_;
};

}  // namespace

bool is_defined(const minja::Expression& expression, const Names& names) {
  if (const auto* variable = dynamic_cast<const minja::VariableExpr*>(&expression))
    return names->contains(variable->get_name());
  if (const auto* member = dynamic_cast<const Member*>(&expression)) return member->there(names);
  if (const auto* choice = dynamic_cast<const Choice*>(&expression)) {
    const auto* chosen = choice->chosen(names);
    return chosen != nullptr && is_defined(*chosen, names);
  }
  if (dynamic_cast<const FunctionCall*>(&expression) != nullptr) return !expression.evaluate(names).is_null();
  return true;
}

Expression make_binary(const Location& at, const std::string& op, Expression left, Expression right) {
  return std::make_shared<Binary>(at, op, std::move(left), std::move(right));
}

Expression make_not(const Location& at, Expression inner) {
  return std::make_shared<Not>(at, std::move(inner));
}

Expression make_choice(const Location& at, Expression condition, Expression then, Expression otherwise) {
  return std::make_shared<Choice>(at, std::move(condition), std::move(then), std::move(otherwise));
}

Expression make_member(const Location& at, Expression base, Expression key) {
  return std::make_shared<Member>(at, std::move(base), std::move(key));
}

Expression make_slice(const Location& at, Expression base, Expression begin, Expression end,
                      Expression step) {
  return std::make_shared<Slice>(at, std::move(base), std::move(begin), std::move(end), std::move(step));
}

Expression make_call(const Location& at, Function function, Expression subject,
                     minja::ArgumentsExpression args) {
  return std::make_shared<FunctionCall>(at, function, std::move(subject), std::move(args));
}

Expression make_method(const Location& at, const std::string& name, Expression base,
                       minja::ArgumentsExpression args) {
  return std::make_shared<MethodCall>(at, name, std::move(base), std::move(args));
}

Expression make_defined(const Location& at, Expression inner) {
  return std::make_shared<Defined>(at, std::move(inner));
}

Expression make_none_test(const Location& at, Expression inner) {
  return std::make_shared<IsNone>(at, std::move(inner));
}

Node make_output(const Location& at, Expression expression) {
  return std::make_shared<Output>(at, std::move(expression));
}

Node make_if(const Location& at, std::vector<std::pair<Expression, Node>> branches) {
  return std::make_shared<If>(at, std::move(branches));
}

Node make_for(const Location& at, std::vector<std::string> names, Expression iterable, Expression condition,
              Node body, Node otherwise) {
  return std::make_shared<For>(at, std::move(names), std::move(iterable), std::move(condition),
                               std::move(body), std::move(otherwise));
}

Node make_macro(const Location& at, std::string name, minja::Expression::Parameters parameters, Node body) {
  return std::make_shared<Macro>(at, std::move(name), std::move(parameters), std::move(body));
}

Node make_filtered(const Location& at, std::string name, Node body, Function function,
                   minja::ArgumentsExpression args) {
  return std::make_shared<Filtered>(at, std::move(name), std::move(body), function, std::move(args));
}

}  // namespace windowkv::jinja
