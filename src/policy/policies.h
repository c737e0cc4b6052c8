#pragma once

#include <memory>
#include <string_view>

#include "windowkv/policy.h"

namespace windowkv {

// One a file; policies.cpp lists them by name.
std::unique_ptr<Policy> make_adakv(const PolicyOptions& options);
std::unique_ptr<Policy> make_chunkkv(const PolicyOptions& options);
std::unique_ptr<Policy> make_criticalkv(const PolicyOptions& options);
std::unique_ptr<Policy> make_defensivekv(const PolicyOptions& options);
std::unique_ptr<Policy> make_expected_attention(const PolicyOptions& options);
std::unique_ptr<Policy> make_full(const PolicyOptions& options);
std::unique_ptr<Policy> make_h2o(const PolicyOptions& options);
std::unique_ptr<Policy> make_kvzip(const PolicyOptions& options);
std::unique_ptr<Policy> make_laq(const PolicyOptions& options);
std::unique_ptr<Policy> make_layer_defensivekv(const PolicyOptions& options);
std::unique_ptr<Policy> make_pyramidkv(const PolicyOptions& options);
std::unique_ptr<Policy> make_random(const PolicyOptions& options);
std::unique_ptr<Policy> make_rkv(const PolicyOptions& options);
std::unique_ptr<Policy> make_snapkv(const PolicyOptions& options);
std::unique_ptr<Policy> make_streaming_llm(const PolicyOptions& options);
std::unique_ptr<Policy> make_tova(const PolicyOptions& options);
std::unique_ptr<Policy> make_triattention(const PolicyOptions& options);
std::unique_ptr<Policy> make_windowkv(const PolicyOptions& options);

/// The policy, choosing again after every so many decoded tokens.
std::unique_ptr<Policy> make_recalling(std::unique_ptr<Policy> policy, int every);

/// Throws Error where a policy of that name cannot choose again while answering.
void check_recalls(const Selector& selector, std::string_view name);

/// `first` for the prompt, and `again` whenever a layer holds `total` tokens.
std::unique_ptr<Policy> make_bounded(std::unique_ptr<Policy> first, std::unique_ptr<Policy> again,
                                     int64_t total);

}  // namespace windowkv
