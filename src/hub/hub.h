#pragma once

#include <filesystem>

#include "hub/download.h"
#include "hub/model_request.h"

/// Models from Hugging Face, in the cache that llama.cpp and Hugging Face's own tools share.
namespace windowkv::hub {

/// Path of the model's file, downloaded first where the cache has it not yet or in an older state. A hub that
/// cannot be reached or refuses leaves what is cached, and listener.note says so. The hub is MODEL_ENDPOINT
/// or HF_ENDPOINT where they are set. Throws Error where there is no such repository, file or quantization,
/// for missing access, no network and nothing cached, a full disk; Cancelled.
std::filesystem::path find_model(const ModelRequest& request, const Listener& listener);

}  // namespace windowkv::hub
