#pragma once

#include <ggml.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// GGUF models with random weights: real shapes for benchmarks, odd ones for tests.
namespace windowkv {

enum class RopeScaling { kNone, kLinear, kYarn, kLong };

struct RandomModel {
  std::string family = "llama";  ///< one of random_family_names()
  int n_layer = 2;
  int n_embd = 64;
  int n_head = 4;
  int n_head_kv = 2;
  int d_head = 16;
  int n_rot = 0;  ///< of a head's dimensions so many are rotated; 0: all
  int n_ff = 128;
  int n_vocab = 256;
  int n_ctx = 4096;
  float rms_eps = 1e-5f;
  ggml_type type = GGML_TYPE_F16;  ///< of the matrices; norms and biases are F32
  bool tied = false;               ///< no output.weight: the embedding serves
  float rope_base = 10000.0f;
  bool llama3_rope_freqs = false;  ///< rope_freqs.weight as Llama 3.1 has it
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_factor = 1.0f;
  int rope_n_ctx_orig = 0;  ///< 0: not in the file
  float rope_attn_factor = 1.0f;
  bool qkv_bias = false;     ///< for llama; qwen2 has them always
  bool output_bias = false;  ///< bias of the attention's output projection, for llama
  int window = 0;            ///< of sliding layers, for families that have some; 0: not in the file
  int window_period = 3;     ///< in families whose layers differ: of so many the last one has none
  int d_head_window = 0;     ///< of layers with a window, in families whose layers differ; 0: as the others
  int n_head_kv_window = 0;  ///< likewise
  int n_rot_window = 0;      ///< likewise
  int n_ff_above = 0;        ///< of the layers that share K and V, or the upper half where none do, likewise
  int shared_layers = 0;     ///< last ones that read K and V of others, likewise
  int n_embd_layer = 0;      ///< of embeddings for each layer, likewise; 0: there are none
  int n_expert = 0;          ///< 0: none, in families that can do without
  int n_expert_used = 2;
  int n_ff_expert = 64;
  int n_ff_shared = 0;  ///< of the expert that every token passes; 0: there is none
  int dense_layers = 0;
  float expert_scale = 1.0f;
  int extra_layers = 0;            ///< that predict further tokens, for glm4moe
  float query_growth = 0.0f;       ///< for mistral3
  float attention_softcap = 0.0f;  ///< these two 0: not in the file
  float logit_softcap = 0.0f;
  // Of recurrent layers, for qwen35 and qwen35moe:
  int attention_interval = 4;  ///< every so many-th layer attends
  int delta_key_heads = 2;
  int delta_heads = 4;
  int delta_d_head = 8;
  int delta_kernel = 4;
  uint64_t seed = 1;
};

/// tiny, the sizes of real models by name, and qwen3moe-4x, a mixture of 0.6B parameters.
std::vector<std::string> random_model_shapes();
/// Throws Error for an unknown name.
RandomModel random_model_shape(std::string_view name);

/// The ggml type of that name ("q8_0"); throws Error for one that random matrices cannot be written in.
ggml_type parse_weight_type(std::string_view name);

/// Writes the model to `path`, byte for byte the same on every machine and for any number of threads (0: as
/// many as cores). Holds one slice of one matrix at a time. Throws Error for impossible sizes and where the
/// file cannot be written; `path` then stays as it was.
void write_random_model(const RandomModel& model, const std::string& path, int threads = 0);

}  // namespace windowkv
