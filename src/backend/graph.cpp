#include "backend/graph.h"

#include "windowkv/error.h"

namespace windowkv {

Graph::Graph(size_t max_nodes) {
  arena_.resize(ggml_tensor_overhead() * max_nodes + ggml_graph_overhead_custom(max_nodes, false));
  ctx_.reset(ggml_init({arena_.size(), arena_.data(), /*no_alloc=*/true}));
  graph_ = ggml_new_graph_custom(ctx_.get(), max_nodes, false);
}

ggml_tensor* Graph::output(ggml_tensor* tensor) {
  ggml_set_output(tensor);
  add(tensor);
  return tensor;
}

ggml_tensor* Graph::input(ggml_type type, int64_t ne0, int64_t ne1) {
  auto* tensor = ggml_new_tensor_2d(ctx_.get(), type, ne0, ne1);
  ggml_set_input(tensor);
  return tensor;
}

Scheduler::Scheduler(const Backends& backends, size_t max_nodes, Products products)
    : order_(backends.all()), max_nodes_(max_nodes) {
  if (products == Products::kBlas && backends.blas() != nullptr)
    order_.insert(order_.end() - 1, backends.blas());
  sched_.reset(ggml_backend_sched_new(order_.data(), nullptr, static_cast<int>(order_.size()), max_nodes,
                                      /*parallel=*/false, /*op_offload=*/true));
}

void Scheduler::allocate(const Graph& graph) {
  ggml_backend_sched_reset(sched_.get());
  // Plans anew each time. Without this ggml takes the previous graph's plan wherever the numbers of nodes and
  // leaves and the sizes agree, even if inputs stand elsewhere among the leaves, and then writes through a
  // missing buffer: caches whose layers are grouped differently give such graphs.
  if (!ggml_backend_sched_reserve(sched_.get(), graph.nodes()) ||
      !ggml_backend_sched_alloc_graph(sched_.get(), graph.nodes()))
    throw Error("out of memory for the computation; use a smaller --chunk or a shorter prompt");
}

void Scheduler::compute(const Graph& graph) {
  auto status = ggml_backend_sched_graph_compute(sched_.get(), graph.nodes());
  if (status != GGML_STATUS_SUCCESS) {
    auto detail = take_ggml_error();
    throw Error(std::string("computation failed: ") + ggml_status_to_string(status) +
                (detail.empty() ? "" : " (" + detail + ")"));
  }
}

void Scheduler::run(const Graph& graph) {
  allocate(graph);
  compute(graph);
}

int64_t Scheduler::buffer_bytes() const {
  int64_t sum = 0;
  for (auto* backend : order_)
    sum += static_cast<int64_t>(ggml_backend_sched_get_buffer_size(sched_.get(), backend));
  return sum;
}

Storage::Storage(const Backends& backends, const char* what, int tensors) : backends_(backends), what_(what) {
  ctx_.reset(ggml_init({ggml_tensor_overhead() * static_cast<size_t>(tensors), nullptr, /*no_alloc=*/true}));
}

ggml_tensor* Storage::add(ggml_type type, int64_t ne0, int64_t ne1) {
  return ggml_new_tensor_2d(ctx_.get(), type, ne0, ne1);
}

void Storage::allocate(bool clear) {
  buffer_.reset(ggml_backend_alloc_ctx_tensors(ctx_.get(), backends_.primary()));
  if (!buffer_)
    throw Error(std::string("out of memory for ") + what_ +
                "; use a shorter prompt or a smaller --kv-budget");
  if (clear) ggml_backend_buffer_clear(buffer_.get(), 0);
}

}  // namespace windowkv
