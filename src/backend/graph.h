#pragma once

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include <vector>

#include "backend/backend.h"

namespace windowkv {

/// A computation under construction: tensors without data, and the order they are computed in.
class Graph {
 public:
  explicit Graph(size_t max_nodes = 4096);

  ggml_context* ctx() const { return ctx_.get(); }
  ggml_cgraph* nodes() const { return graph_; }

  /// Computes `tensor`, and what it needs, after everything added before.
  void add(ggml_tensor* tensor) { ggml_build_forward_expand(graph_, tensor); }
  /// Likewise, and keeps its data readable after compute.
  ggml_tensor* output(ggml_tensor* tensor);
  /// A tensor the caller fills after Scheduler::allocate.
  ggml_tensor* input(ggml_type type, int64_t ne0, int64_t ne1 = 1);

 private:
  std::vector<uint8_t> arena_;
  ggml_context_ptr ctx_;
  ggml_cgraph* graph_;
};

/// Whether a scheduler's large matrix products go to BLAS where there is one. It widens quantized weights
/// each time, so that it takes dozens of columns to gain.
enum class Products { kPlain, kBlas };

/// Places graphs on the backends and runs them.
class Scheduler {
 public:
  explicit Scheduler(const Backends& backends, size_t max_nodes = 4096, Products products = Products::kPlain);

  /// Gives the graph's tensors memory; whatever was allocated before loses its own. Throws Error when there
  /// is none.
  void allocate(const Graph& graph);
  /// Runs a graph that holds the current allocation; may be repeated.
  void compute(const Graph& graph);
  /// allocate + compute, for graphs without inputs of their own.
  void run(const Graph& graph);

  /// The most nodes of a graph it takes.
  size_t max_nodes() const { return max_nodes_; }
  /// Bytes of compute buffers held.
  int64_t buffer_bytes() const;

 private:
  std::vector<ggml_backend_t> order_;
  size_t max_nodes_;
  ggml_backend_sched_ptr sched_;
};

/// Tensors that outlive a graph, in a buffer of the layers' device.
class Storage {
 public:
  /// `clear`: zero the bytes. Throws Error naming `what` where the memory is not to be had.
  Storage(const Backends& backends, const char* what, int tensors);

  ggml_tensor* add(ggml_type type, int64_t ne0, int64_t ne1);
  /// After the last add().
  void allocate(bool clear);
  int64_t bytes() const {
    return buffer_ ? static_cast<int64_t>(ggml_backend_buffer_get_size(buffer_.get())) : 0;
  }

 private:
  const Backends& backends_;
  const char* what_;
  ggml_context_ptr ctx_;
  ggml_backend_buffer_ptr buffer_;
};

}  // namespace windowkv
