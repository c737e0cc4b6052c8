#pragma once

#include <ggml.h>

#include <span>
#include <string_view>
#include <vector>

#include "backend/graph.h"
#include "model/gguf_file.h"
#include "model/weights.h"
#include "windowkv/model.h"

namespace windowkv {

/// A model family: what its GGUF says, which tensors it has, and the graph of one layer. The engine owns what
/// lies between the parts below: K/V caches and attention itself. A new family is one file in families/ and
/// one line in families.cpp; most derive from PreNormDecoder.
class Family {
 public:
  virtual ~Family() = default;

  /// general.architecture of its files.
  virtual std::string_view arch() const = 0;

  /// Fills what differs from the metadata every family shares (read_common). Throws Error for variants the
  /// graph does not cover.
  virtual void read(const GgufFile& file, HParams& hp) const = 0;

  /// Whether its files may name a sliding window: read() gives it to layers, or leaves it out as libllama
  /// does.
  virtual bool may_slide() const { return false; }

  /// Whether its layers may have different numbers of KV heads: read() sees to it that those that see all
  /// tokens have not.
  virtual bool layers_may_differ() const { return false; }

  /// Asks the loader for every tensor.
  virtual void declare(WeightLoader& loader, const HParams& hp, Weights& weights) const = 0;

  /// Which of a layer's projections are wanted.
  enum Parts { kQ = 1, kKv = 2, kQkv = 3 };
  struct Qkv {
    ggml_tensor* q = nullptr;  ///< [d_head, n_head, t] F32, RoPE applied
    ggml_tensor* k = nullptr;  ///< [d_head, n_head_kv, t] F32, RoPE applied
    ggml_tensor* v = nullptr;  ///< [d_head, n_head_kv, t] F32
    /// [d_head·n_head, t] F32, which what attention gives is multiplied by before finish_layer(); null: it is
    /// not. There wherever q is.
    ggml_tensor* gate = nullptr;
  };

  /// Hidden states x [n_embd, t] F32 at positions pos [t] I32 → what attention needs.
  virtual Qkv attention_inputs(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                               ggml_tensor* x, ggml_tensor* pos, Parts parts) const = 0;

  /// Rotary positions applied to x [d_head, heads, t] F32 at positions pos [t] I32, as to queries and keys;
  /// or taken off again.
  enum class Rotation { kApply, kUndo };
  virtual ggml_tensor* rotate(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                              ggml_tensor* x, ggml_tensor* pos, Rotation rotation) const = 0;

  /// Columns of a layer's input that follow each other in one sequence, and the state that they find and
  /// leave (RecurrentState::Layer), in the same place or in another.
  struct StateRun {
    int64_t first;
    int64_t count;
    ggml_tensor* inputs;    ///< [kernel − 1, channels] F32, the last ones of the convolution
    ggml_tensor* matrices;  ///< [d_head·d_head, heads] F32
    ggml_tensor* inputs_left = inputs;
    ggml_tensor* matrices_left = matrices;
  };

  /// Of a recurrent layer: hidden states x [n_embd, t] → what finish_layer() takes for attention. `runs`: all
  /// columns, in order. Adds the change of the states to the graph.
  virtual ggml_tensor* recur(Graph& graph, const HParams& hp, const Weights& weights, int layer,
                             ggml_tensor* x, std::span<const StateRun> runs) const = 0;

  /// A chunk's tokens themselves, which a layer may take in beside what came through the layers below: both
  /// null where HParams::n_embd_layer is 0.
  struct LayerTokens {
    ggml_tensor* embedded = nullptr;  ///< embed() of them
    ggml_tensor* rows = nullptr;      ///< embed_in_layer() of them
  };

  /// Attention output [n_head·d_head, t] and the layer's input x → the layer's output [n_embd, t].
  virtual ggml_tensor* finish_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                    ggml_tensor* x, ggml_tensor* attention,
                                    const LayerTokens& tokens) const = 0;

  /// Token ids [t] I32 → hidden states [n_embd, t] F32.
  virtual ggml_tensor* embed(ggml_context* ctx, const HParams& hp, const Weights& weights,
                             ggml_tensor* tokens) const = 0;

  /// Token ids [t] I32 → their rows of the layer's own embedding, [n_embd_layer, t] F32.
  virtual ggml_tensor* embed_in_layer(ggml_context* ctx, const HParams& hp, const Weights& weights, int layer,
                                      ggml_tensor* tokens) const = 0;

  /// Last layer's output [n_embd, t] → logits [n_vocab, t] F32.
  virtual ggml_tensor* logits(ggml_context* ctx, const HParams& hp, const Weights& weights,
                              ggml_tensor* x) const = 0;
};

/// The metadata every family shares; refuses sizes that disagree. All layers see all tokens.
/// `layers_may_differ`: Family::layers_may_differ(); each layer then gets heads of its own.
HParams read_common(const GgufFile& file, bool layers_may_differ = false);
/// Leaves out the layers at the end that predict further tokens. Throws Error where no others are left.
void drop_further_layers(const GgufFile& file, HParams& hp);
/// Tokens of the file's sliding window, `missing` where it says nothing; 0 where the trained context fits in
/// it.
int read_window(const GgufFile& file, const HParams& hp, int missing = 0);
/// Gives every layer but the last of each period that way to attend, with the file's window, where it has
/// one. `sliding.window` and `period`: what the file leaves out.
void slide(const GgufFile& file, HParams& hp, AttentionSpec sliding, int period);
/// Throws Error where the file has a sliding window and its family does not know any.
void check_window(const GgufFile& file, const Family& family, const HParams& hp);

/// A bound of logits (HParams::attention_softcap), `missing` where the file says nothing. Throws Error for
/// one that is not above 0.
float read_softcap(const GgufFile& file, const HParams& hp, const char* key, float missing);

const std::vector<const Family*>& families();
/// The family of general.architecture; throws Error naming those there are.
const Family& find_family(const GgufFile& file);

}  // namespace windowkv
