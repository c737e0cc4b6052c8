#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace windowkv {

class Vocab;
struct LoadedModel;

/// Sizes of one layer's attention.
struct HeadSizes {
  int n_head = 0;
  int n_head_kv = 0;
  int d_head = 0;  ///< of both K and V
  /// Elements of one token's K (or V) row.
  int64_t kv_row() const { return static_cast<int64_t>(d_head) * n_head_kv; }
  bool operator==(const HeadSizes&) const = default;
};

/// How one layer attends.
struct AttentionSpec {
  int window = 0;  ///< tokens that a query sees, its own the last of them (a sliding window); 0: all so far
  float rope_base = 10000.0f;
  float rope_freq_scale = 1.0f;
  bool rope = true;          ///< false: positions are not rotated in
  bool recurrent = false;    ///< there is no attention: the layer is HParams::delta_net
  bool yarn = true;          ///< false: without HParams::rope_ext_factor and rope_attn_factor
  HeadSizes heads = {};      ///< where d_head is 0, those of HParams
  int n_rot = 0;             ///< 0: HParams::n_rot
  bool rope_factors = true;  ///< false: RoPE's frequencies are not divided by the file's factors
  bool operator==(const AttentionSpec&) const = default;
};

/// Layers that keep a state of fixed size instead of a row a token: gated delta nets. A convolution over the
/// last tokens, then a matrix in each head that tokens write to and read from.
struct DeltaNet {
  int key_heads = 0;  ///< of queries and keys; 0: there are no such layers
  int heads = 0;      ///< of values and matrices, a multiple of key_heads
  int d_head = 0;     ///< of all of them
  int kernel = 0;     ///< tokens that the convolution takes, the one it is for among them
  bool operator==(const DeltaNet&) const = default;
  int64_t channels() const { return int64_t{d_head} * (2 * key_heads + heads); }
  /// Bytes of a layer's state, F32.
  int64_t state_bytes() const { return 4 * ((kernel - 1) * channels() + int64_t{d_head} * d_head * heads); }
};

/// A mixture of experts in the place of one feed-forward.
struct Mixture {
  int experts = 0;            ///< 0: there is none, the feed-forward is dense
  int used = 0;               ///< by each token
  int n_ff = 0;               ///< of one expert
  int n_ff_shared = 0;        ///< of the expert that every token passes; 0: there is none
  bool shared_gated = false;  ///< by a gate of its own, one number a token
  bool beside_dense = false;  ///< that expert is a feed-forward as dense layers have it, and all parts have
                              ///< norms of their own
  int dense_layers = 0;       ///< so many layers come first whose feed-forward is dense
  enum class Rating {
    kSoftmax,        ///< over all experts
    kSigmoid,        ///< each by itself
    kSoftmaxOfUsed,  ///< by what the router says, and weighted by a softmax over those that are used
  } rating = Rating::kSoftmax;
  bool normalized = true;  ///< the weights of the experts that are used add up to 1
  float scale = 1.0f;      ///< of their sum
};

/// Hyperparameters of a decoder model, from the GGUF's metadata.
struct HParams {
  std::string family;  ///< general.architecture
  std::string name;    ///< general.name, may be empty
  /// 16 hex digits, the same for all GGUFs of a model, whatever their weight types.
  std::string fingerprint;
  int n_layer = 0;
  int n_embd = 0;
  // Of the layers that see all tokens; those with a window may have sizes of their own (heads()).
  int n_head = 0;
  int n_head_kv = 0;
  int d_head = 0;
  int n_ff = 0;                 ///< of the feed-forwards, or the most of them
  std::vector<int> layer_n_ff;  ///< by layer; empty: n_ff in all
  int n_embd_layer = 0;  ///< width of the embeddings that each layer takes in by itself; 0: there are none
  int n_vocab = 0;
  int n_ctx_train = 0;
  float rms_eps = 1e-5f;
  float attention_scale = 0.0f;
  float attention_softcap = 0.0f;  ///< s = scale·q·k becomes softcap·tanh(s / softcap); 0: it stays
  /// So many layers come last that have queries alone and read K and V of layers below (rows_layer()).
  int shared_layers = 0;
  /// By layer; empty where all see all tokens, and RoPE is as below.
  std::vector<AttentionSpec> attention;
  DeltaNet delta_net;
  bool gated_attention = false;  ///< queries come with gates of what attention gives
  float embedding_scale = 1.0f;  ///< of the embedding's rows
  float residual_scale = 1.0f;   ///< of what attention and feed-forward add to the hidden states
  float logit_scale = 1.0f;
  float logit_softcap = 0.0f;  ///< of the tokens' logits, as attention_softcap
  float query_growth = 0.0f;   ///< by which queries grow past rope_n_ctx_orig; 0: not at all
  enum class Activation {
    kSilu,
    kGelu,
    kClampedSilu
  } activation = Activation::kSilu;  ///< of the feed-forward's gate
  Mixture mixture;
  // RoPE
  int n_rot = 0;
  int rope_mode = 0;  ///< GGML_ROPE_TYPE_NORMAL or GGML_ROPE_TYPE_NEOX
  float rope_base = 10000.0f;
  float rope_freq_scale = 1.0f;
  float rope_ext_factor = 0.0f;
  float rope_attn_factor = 1.0f;
  int rope_n_ctx_orig = 0;
  /// How much of the cache each layer needs relative to the others, measured by a calibration (mean 1);
  /// empty: unknown.
  std::vector<double> layer_shares;

  AttentionSpec attention_of(int layer) const {
    return attention.empty() ? AttentionSpec{0, rope_base, rope_freq_scale}
                             : attention[static_cast<size_t>(layer)];
  }
  HeadSizes heads(int layer) const {
    if (!attention.empty() && attention[static_cast<size_t>(layer)].heads.d_head > 0)
      return attention[static_cast<size_t>(layer)].heads;
    return {n_head, n_head_kv, d_head};
  }
  /// Width of a layer's feed-forward.
  int ff_width(int layer) const { return layer_n_ff.empty() ? n_ff : layer_n_ff[static_cast<size_t>(layer)]; }
  bool slides(int layer) const { return attention_of(layer).window > 0; }
  bool recurrent(int layer) const { return attention_of(layer).recurrent; }
  int n_recurrent_layers() const {
    return static_cast<int>(std::ranges::count_if(attention, &AttentionSpec::recurrent));
  }
  /// Whether any layer is.
  bool recurrent() const { return n_recurrent_layers() > 0; }
  /// Layers below those that share.
  int own_layers() const { return n_layer - shared_layers; }
  bool shares(int layer) const { return layer >= own_layers(); }
  /// Whether a layer stores K and V.
  bool has_rows(int layer) const { return !recurrent(layer) && !shares(layer); }
  /// The layer whose K and V a layer reads: its own, or where it shares the last of its kind that has some.
  int rows_layer(int layer) const { return shares(layer) ? own_layers() - (slides(layer) ? 2 : 1) : layer; }
  /// Whether a layer above reads its K and V, too.
  bool read_above(int layer) const;
  /// Whether a layer has K and V of its own and sees all tokens so far: its cache is worth compressing.
  bool full(int layer) const { return has_rows(layer) && !slides(layer); }
  /// Those layers, lowest first.
  std::vector<int> full_layers() const;
  int n_full_layers() const { return static_cast<int>(full_layers().size()); }
  /// Layers below that have rows: the number of the layer among those.
  int row_layer(int layer) const {
    int below = 0;
    for (int i = 0; i < layer; ++i) below += has_rows(i) ? 1 : 0;
    return below;
  }
  /// Rows that a layer's cache of `tokens` tokens has where it drops only what no later one sees, none where
  /// it has no rows; or those of all layers.
  int64_t full_rows(int layer, int64_t tokens) const;
  int64_t full_rows(int64_t tokens) const;
  /// Bytes of the states of all recurrent layers of a sequence, or of the one.
  int64_t state_bytes() const;
  int64_t state_bytes(int layer) const { return recurrent(layer) ? delta_net.state_bytes() : 0; }

  /// Elements of one token's K (or V) row in a layer that sees all tokens.
  int64_t kv_row() const { return heads_of_full().kv_row(); }
  int64_t kv_row(int layer) const { return heads(layer).kv_row(); }
  /// Bytes of one token's K and V in one such layer, F16.
  int64_t kv_layer_bytes_per_token() const { return 4 * kv_row(); }
  /// Bytes, F16, of full_rows() of all layers.
  int64_t full_bytes(int64_t tokens) const;
  /// Whether all layers have heads of the same number and width.
  bool layers_alike() const;
  /// The greatest number of elements that every layer's row is a multiple of: the unit that memory for K and
  /// V is divided into.
  int64_t kv_unit() const;
  /// Such units of a layer's row.
  int64_t row_units(int layer) const { return kv_row(layer) / kv_unit(); }
  /// The least number of units that is whole rows of every layer.
  int64_t common_units() const;
  /// One of the layers with the longest rows.
  int widest_layer() const;
  /// The largest that a layer has of each.
  HeadSizes most_heads() const;

 private:
  HeadSizes heads_of_full() const { return {n_head, n_head_kv, d_head}; }
};

struct ModelOptions {
  /// Where the layers go: "auto" (the RPC servers and the GPUs ggml finds, otherwise the CPU), or a
  /// comma-separated list of "cpu", ggml's device names, and "RPC0" for the first device of the servers.
  std::string device = "auto";
  int threads = 0;      ///< CPU threads; 0: one per core
  bool blas = true;     ///< large products on the CPU through ggml's BLAS backend where it is faster
  bool mmap = true;     ///< map weights that ggml can use in place in the file
  bool repack = true;   ///< copy CPU weights into layouts with faster kernels (AMX, interleaved rows)
  bool weights = true;  ///< false: metadata and vocabulary only
  /// Calibration file; "auto": the one next to the model that was made for it, otherwise the one bundled with
  /// this library, if any; "none".
  std::string calibration = "auto";
  std::vector<std::string> rpc;      ///< servers of ggml's RPC backend, "host:port"
  std::vector<double> tensor_split;  ///< the devices' shares of the layers; empty: by free memory
  /// The experts of so many layers, from the first, stay in this machine's memory and are computed by its
  /// CPU, whatever device has the layer.
  int cpu_experts = 0;
  /// Receives the bytes of weights copied to the devices so far and in total; not called where all weights
  /// stay in the mapped file.
  std::function<void(int64_t done, int64_t total)> progress;
  /// Receives a line for each calibration file that was skipped.
  std::function<void(const std::string& line)> warning;
};

/// A device and the layers it holds; none where there were too few layers.
struct DeviceLayers {
  std::string device;  ///< "RPC0 (127.0.0.1:50052)"
  int first_layer = 0;
  int layers = 0;
  /// "RPC0", as --device takes it.
  std::string name() const { return device.substr(0, device.find(' ')); }
};

/// A GGUF model, ready to compute. Immutable once loaded, and safe to read from any thread. Any number of
/// engines may use it, each in a thread of its own; they compute in turns. It must outlive them and every
/// Sequence and KvPool of theirs.
class Model {
 public:
  /// Throws Error for a file that is not a usable GGUF model, naming the file and what is wrong with it, and
  /// for devices and servers that are not available.
  static std::unique_ptr<Model> load(const std::string& path, const ModelOptions& options = {});
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::string& path() const;
  const HParams& hparams() const;
  /// Throws Error where the file carries no vocabulary; find_vocab() gives null instead.
  const Vocab& vocab() const;
  const Vocab* find_vocab() const;
  /// Source of HParams::layer_shares: a file, or "built in"; "" without a calibration.
  const std::string& calibration() const;
  int64_t weight_bytes() const;
  /// The type with the most weight bytes, as ggml names it ("q8_0").
  const std::string& weight_type() const;
  /// The devices that hold layers, in layer order.
  std::vector<DeviceLayers> devices() const;
  /// Whether only the CPU holds layers.
  bool on_cpu() const;
  /// The device that computes the layers, as ggml describes it; for several, also which layers each holds.
  std::string device_name() const;
  /// The buffers that hold the weights, as ggml names them ("CPU_Mapped 6.0 MiB").
  std::vector<std::string> buffers() const;

  /// For the engine.
  LoadedModel& loaded() const { return *loaded_; }

 private:
  explicit Model(std::unique_ptr<LoadedModel> loaded);
  std::unique_ptr<LoadedModel> loaded_;
};

/// The supported model families.
std::vector<std::string> family_names();

}  // namespace windowkv
