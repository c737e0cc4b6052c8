#pragma once

#include <ggml-cpp.h>

#include <initializer_list>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/gguf_file.h"
#include "windowkv/model.h"

namespace windowkv {

/// One layer's tensors; optional ones are null where the model has none. Shapes are in ggml's order.
struct LayerWeights {
  ggml_tensor* attn_norm = nullptr;  ///< [n_embd]; null where a family has no norm here
  ggml_tensor* wq = nullptr;         ///< [n_embd, n_head·d_head]
  ggml_tensor* wk = nullptr;         ///< [n_embd, n_head_kv·d_head]
  ggml_tensor* wv = nullptr;         ///< likewise; null where K's is V's
  ggml_tensor* wo = nullptr;         ///< [n_head·d_head, n_embd]
  ggml_tensor* bq = nullptr;
  ggml_tensor* bk = nullptr;
  ggml_tensor* bv = nullptr;
  ggml_tensor* bo = nullptr;
  ggml_tensor* q_norm = nullptr;          ///< [d_head], or of all heads at once
  ggml_tensor* k_norm = nullptr;          ///< likewise
  ggml_tensor* attn_post_norm = nullptr;  ///< [n_embd]
  ggml_tensor* ffn_norm = nullptr;
  ggml_tensor* gate = nullptr;         ///< [n_embd, n_ff]; of a mixture [n_embd, n_ff, experts]
  ggml_tensor* up = nullptr;           ///< likewise
  ggml_tensor* down = nullptr;         ///< [n_ff, n_embd]; of a mixture [n_ff, n_embd, experts]
  ggml_tensor* router = nullptr;       ///< [n_embd, experts], null in a dense layer
  ggml_tensor* router_bias = nullptr;  ///< [experts], on choosing experts, not on their weights
  ggml_tensor* rating_bias = nullptr;  ///< [experts], on what the router says
  ggml_tensor* gate_bias = nullptr;    ///< these two of a mixture, [n_ff, experts]
  ggml_tensor* up_bias = nullptr;
  ggml_tensor* down_bias = nullptr;     ///< of a mixture, [n_embd, experts]
  ggml_tensor* router_scale = nullptr;  ///< [n_embd], of what the router reads
  ggml_tensor* gate_up = nullptr;       ///< of a mixture, both in one: [n_embd, 2·n_ff, experts]; else null
  ggml_tensor* down_scale = nullptr;    ///< of a mixture, [experts]
  ggml_tensor* expert_norm = nullptr;   ///< these three [n_embd], where experts are beside a dense part
  ggml_tensor* expert_post_norm = nullptr;
  ggml_tensor* shared_post_norm = nullptr;
  ggml_tensor* shared_gate = nullptr;    ///< [n_embd, n_ff_shared], of the expert that every token passes
  ggml_tensor* shared_up = nullptr;      ///< likewise
  ggml_tensor* shared_down = nullptr;    ///< [n_ff_shared, n_embd]
  ggml_tensor* shared_router = nullptr;  ///< [n_embd], that expert's gate
  ggml_tensor* ffn_post_norm = nullptr;  ///< [n_embd]
  ggml_tensor* output_scale = nullptr;   ///< [1], of the layer's output
  // Of embeddings that the layer takes in by itself (layer_embedding.h):
  ggml_tensor* token_proj = nullptr;       ///< [n_embd, n_embd_layer]
  ggml_tensor* token_norm = nullptr;       ///< [n_embd_layer], one a device
  ggml_tensor* token_gate = nullptr;       ///< [n_embd, n_embd_layer]
  ggml_tensor* token_out = nullptr;        ///< [n_embd_layer, n_embd]
  ggml_tensor* token_post_norm = nullptr;  ///< [n_embd]
  ggml_tensor* sinks = nullptr;            ///< [n_head], logits that every query also attends to
  // Of a recurrent layer (DeltaNet), whose wo is [d_head·heads, n_embd]:
  ggml_tensor* delta_qkv = nullptr;          ///< [n_embd, channels]
  ggml_tensor* delta_gate = nullptr;         ///< [n_embd, d_head·heads]
  ggml_tensor* delta_beta = nullptr;         ///< [n_embd, heads], how much a token changes the matrices
  ggml_tensor* delta_decay = nullptr;        ///< likewise, how much they forget
  ggml_tensor* delta_decay_bias = nullptr;   ///< [heads]
  ggml_tensor* delta_decay_scale = nullptr;  ///< [heads]
  ggml_tensor* delta_conv = nullptr;         ///< [kernel, channels]
  ggml_tensor* delta_norm = nullptr;         ///< [d_head]
  ggml_tensor* rope_freqs = nullptr;         ///< [n_rot/2], null where RoPE is unscaled; one a device
};

struct Weights {
  ggml_tensor* token_embd = nullptr;   ///< [n_embd, n_vocab]
  ggml_tensor* layer_embd = nullptr;   ///< [n_embd_layer·n_layer, n_vocab], null where layers have none
  ggml_tensor* output_norm = nullptr;  ///< [n_embd]
  ggml_tensor* output = nullptr;       ///< [n_embd, n_vocab]; the embedding where tied
  std::vector<LayerWeights> layers;
};

/// How a weight is used, which decides where it may lie.
enum class WeightUse { kMatMul, kExperts, kExpertBias, kElementwise, kConvolution, kRows };

/// Whether a family's files have a tensor.
enum class Presence { kNone, kOptional, kRequired };

/// Collects the tensors a family asks for, then puts each where its fastest kernels are.
class WeightLoader {
 public:
  explicit WeightLoader(const GgufFile& file) : file_(file) {}

  const GgufFile& file() const { return file_; }

  /// Asks for a tensor; `slot` is filled by load(). Throws Error for a wrong shape, and for a missing tensor
  /// that is required. It lies on the device of `layer`, rows to look up on the CPU. Layers of one device
  /// that ask for the same tensor share it. Returns whether the file has it; kNone does not look.
  bool add(ggml_tensor*& slot, const std::string& name, std::initializer_list<int64_t> shape, WeightUse use,
           int layer, Presence presence = Presence::kRequired);

  /// Matrices [width, rows] that the file has as one, the rows of each behind those of the one before: each
  /// becomes a tensor of its own, on the device of its layer. Throws Error for a missing tensor and a wrong
  /// shape.
  struct Stacked {
    ggml_tensor** slot;
    int64_t rows;
    int layer;
  };
  void add_stacked(std::span<const Stacked> parts, const std::string& name, int64_t width);

  /// Tensors whose names begin so are no part of the graph.
  void leave_out(const std::string& prefix) { left_out_.push_back(prefix); }

  /// Throws Error where the file has a tensor that nothing asked for: the graph would leave it out.
  void check_all_known() const;

  struct Loaded {
    std::vector<ggml_context_ptr> contexts;
    std::vector<ggml_backend_buffer_ptr> buffers;
    int64_t bytes = 0;
    std::string main_type;
    bool mapped = false;  ///< some tensors point into the file, which must stay mapped
  };
  /// Throws Error for types ggml cannot compute with and where memory runs out.
  Loaded load(const Backends& backends, const ModelOptions& options);

 private:
  struct Request {
    ggml_tensor** slot;
    std::string name;
    GgufFile::Tensor tensor;
    WeightUse use;
    int layer;
  };
  GgufFile::Tensor checked(const std::string& name, std::initializer_list<int64_t> shape,
                           WeightUse use) const;
  ggml_backend_buffer_type_t choose(const Backends& backends, const Request& request,
                                    const ModelOptions& options) const;

  const GgufFile& file_;
  std::vector<Request> requests_;
  std::set<std::string> known_;
  std::vector<std::string> left_out_;
};

}  // namespace windowkv
