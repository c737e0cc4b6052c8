#pragma once

#include <memory>
#include <span>
#include <string>

#include "windowkv/classifier.h"

namespace windowkv {

/// A fine-tuned encoder with a classification head, run by libllama on the CPU. Labels as in
/// TaskClassifier::load.
std::unique_ptr<TaskClassifier> load_bert_classifier(const std::string& path,
                                                     std::span<const std::string> labels);

}  // namespace windowkv
