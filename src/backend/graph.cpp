#include "backend/graph.h"

#include <fmt/format.h>
#include <ggml-alloc.h>

#include <algorithm>
#include <set>
#include <span>
#include <string_view>

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
  inputs_.push_back(tensor);
  return tensor;
}

ggml_tensor* build_numbers(ggml_context* ctx, int64_t count, int64_t times, int64_t first) {
  auto* numbers = ggml_arange(ctx, static_cast<float>(first), static_cast<float>(first + count), 1.0f);
  if (times > 1) numbers = ggml_repeat_4d(ctx, numbers, count, times, 1, 1);
  return ggml_cast(ctx, numbers, GGML_TYPE_I32);
}

ggml_tensor* build_widened(ggml_context* ctx, ggml_tensor* rows, ggml_tensor* numbers) {
  // Not ggml_cast, which goes through rows that lie apart an element at a time.
  return ggml_get_rows(ctx, rows, numbers);
}

namespace {

/// Copies that the scheduler adds to a graph once it is split are named "device#tensor#number".
DeviceTraffic traffic_of(std::span<const ggml_backend_t> devices, ggml_backend_sched_t sched,
                         ggml_cgraph* graph) {
  DeviceTraffic traffic{1, ggml_backend_sched_get_n_splits(sched), 0, 0};
  std::set<const ggml_tensor*> seen;
  for (int i = 0; i < ggml_graph_n_nodes(graph); ++i)
    for (const auto* source : ggml_graph_node(graph, i)->src) {
      if (source == nullptr || !seen.insert(source).second) continue;
      const std::string_view name(source->name);
      const bool copied = std::ranges::any_of(devices, [&](ggml_backend_t b) {
        const std::string_view device(ggml_backend_name(b));
        return name.starts_with(device) && name.substr(device.size()).starts_with('#');
      });
      if (copied) traffic += {0, 0, 1, static_cast<int64_t>(ggml_nbytes(source))};
    }
  return traffic;
}

}  // namespace

void copy_rows(ggml_tensor* from, ggml_tensor* to) {
  constexpr int64_t kPiece = 16 << 20;
  const int64_t step = std::max<int64_t>(1, kPiece / static_cast<int64_t>(from->nb[1]));
  ggml_context_ptr ctx(ggml_init({2 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  for (int64_t first = 0; first < from->ne[1]; first += step) {
    ggml_reset(ctx.get());
    const int64_t count = std::min(step, from->ne[1] - first);
    ggml_tensor* views[2];
    for (auto [view, whole] : {std::pair{&views[0], from}, {&views[1], to}}) {
      *view = ggml_view_2d(ctx.get(), whole, whole->ne[0], count, whole->nb[1],
                           static_cast<size_t>(first) * whole->nb[1]);
      ggml_backend_view_init(*view);
    }
    ggml_backend_tensor_copy(views[0], views[1]);
  }
}

Scheduler::Scheduler(const Backends& backends, size_t max_nodes, Products products)
    : order_(backends.all()),
      several_devices_(order_.size() > 1),
      max_nodes_(max_nodes),
      computing_(backends.computing()) {
  if (products == Products::kBlas && backends.blas() != nullptr)
    order_.insert(order_.end() - 1, backends.blas());
  sched_.reset(ggml_backend_sched_new(order_.data(), nullptr, static_cast<int>(order_.size()), max_nodes,
                                      /*parallel=*/false, /*op_offload=*/true));
}

void Scheduler::place_nodes(const Graph& graph) {
  // Functions of this process: ggml's RPC backend says that its server takes them, which calls their address.
  if (several_devices_)
    for (int i = 0; i < ggml_graph_n_nodes(graph.nodes()); ++i)
      if (auto* node = ggml_graph_node(graph.nodes(), i); node->op == GGML_OP_CUSTOM)
        ggml_backend_sched_set_tensor_backend(sched_.get(), node, order_.back());
  for (auto [tensor, device] : graph.readers()) {
    // A node may read through views of its own.
    const auto* whole = tensor->view_src != nullptr ? tensor->view_src : tensor;
    auto reads = [whole](const ggml_tensor* source) {
      return source != nullptr && (source == whole || source->view_src == whole);
    };
    for (int i = 0; i < ggml_graph_n_nodes(graph.nodes()); ++i)
      if (auto* node = ggml_graph_node(graph.nodes(), i); std::ranges::any_of(node->src, reads))
        ggml_backend_sched_set_tensor_backend(sched_.get(), node, device);
  }
}

namespace {

/// Where what the tensor is, or is a view of, lies; null: nowhere yet.
ggml_backend_buffer_t buffer_of(const ggml_tensor* tensor) {
  return tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
}

}  // namespace

ggml_backend_t Scheduler::only_device(const Graph& graph) const {
  if (!several_devices_) return nullptr;
  ggml_backend_dev_t device = nullptr;
  auto lies_elsewhere = [&](const ggml_tensor* tensor) {
    auto* buffer = tensor != nullptr ? buffer_of(tensor) : nullptr;
    if (buffer == nullptr) return false;
    if (ggml_backend_buffer_is_host(buffer)) return true;
    auto* its = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    if (device == nullptr) device = its;
    return its != device;
  };
  const int count = ggml_graph_n_nodes(graph.nodes());
  for (int i = 0; i < count; ++i) {
    const auto* node = ggml_graph_node(graph.nodes(), i);
    if (node->op == GGML_OP_CUSTOM || lies_elsewhere(node) || std::ranges::any_of(node->src, lies_elsewhere))
      return nullptr;
  }
  const auto its = std::ranges::find(order_, device, ggml_backend_get_device);
  if (device == nullptr || its == order_.end() || *its == order_.back()) return nullptr;
  for (int i = 0; i < count; ++i)
    if (!ggml_backend_dev_supports_op(device, ggml_graph_node(graph.nodes(), i))) return nullptr;
  return *its;
}

void Scheduler::allocate_alone(const Graph& graph, ggml_backend_t device) {
  auto* nodes = graph.nodes();
  auto& [memory, measure] = alone_[device];
  if (!memory) {
    auto* buft = ggml_backend_get_default_buffer_type(device);
    memory.reset(ggml_gallocr_new(buft));
    measure.reset(ggml_gallocr_new(buft));
  }
  if (started_ != nullptr) {
    // Planned memory that has to grow is freed first, which a graph may still be using.
    size_t bytes = 0;
    ggml_gallocr_reserve_n_size(measure.get(), nodes, nullptr, nullptr, &bytes);
    if (started_ != device || bytes > ggml_gallocr_get_buffer_size(memory.get(), 0)) wait();
  }
  // Each graph is planned anew, as by the scheduler below.
  if (!ggml_gallocr_reserve(memory.get(), nodes) || !ggml_gallocr_alloc_graph(memory.get(), nodes))
    throw Error("out of memory for the computation; use a smaller chunk or a shorter prompt");
  allocated_on_ = device;
  allocated_ = {1, 1, 0, 0};
  for (const auto* input : graph.inputs()) allocated_ += {0, 0, 1, static_cast<int64_t>(ggml_nbytes(input))};
}

void Scheduler::wait() {
  if (started_ == nullptr) return;
  ggml_backend_synchronize(started_);
  started_ = nullptr;
  started_lock_.unlock();
  running_.clear();
}

void Scheduler::allocate(const Graph& graph) {
  if (auto* device = only_device(graph); device != nullptr) return allocate_alone(graph, device);
  wait();
  allocated_on_ = nullptr;
  std::scoped_lock lock(computing_);  // planning waits for the backends, which others may be using
  auto* nodes = graph.nodes();
  ggml_backend_sched_reset(sched_.get());
  // Plans anew each time. Without this ggml takes the previous graph's plan wherever the numbers of nodes and
  // leaves and the sizes agree, even if inputs stand elsewhere among the leaves, and then writes through a
  // missing buffer: caches whose layers are grouped differently give such graphs.
  // Planning puts the copies that devices need in the places of what nodes read, and forgets the copies; it
  // also lets a device put the graph's nodes in another order (ggml's Vulkan and CUDA backends do), so
  // sources are kept with their nodes.
  sources_.clear();
  if (several_devices_)
    for (int i = 0; i < ggml_graph_n_nodes(nodes); ++i) {
      auto* node = ggml_graph_node(nodes, i);
      sources_.emplace_back(node, std::to_array(node->src));
    }
  place_nodes(graph);
  bool done = ggml_backend_sched_reserve(sched_.get(), nodes);
  for (auto& [node, sources] : sources_) std::ranges::copy(sources, node->src);
  place_nodes(graph);  // which planning forgets too
  done = done && ggml_backend_sched_alloc_graph(sched_.get(), nodes);
  if (!done) throw Error("out of memory for the computation; use a smaller chunk or a shorter prompt");
  if (!several_devices_) return;
  allocated_ = traffic_of(order_, sched_.get(), nodes);
  find_strays(graph);
}

void Scheduler::find_strays(const Graph& graph) {
  for (int i = 0; i < ggml_graph_n_nodes(graph.nodes()); ++i) {
    auto* node = ggml_graph_node(graph.nodes(), i);
    if (node->op == GGML_OP_CUSTOM ||
        ggml_backend_sched_get_tensor_backend(sched_.get(), node) != order_.back())
      continue;
    auto has = [&](ggml_backend_t b) {
      return b != order_.back() && ggml_backend_dev_supports_op(ggml_backend_get_device(b), node);
    };
    if (std::ranges::none_of(order_, has)) strays_.insert(ggml_op_desc(node));
  }
}

void Scheduler::compute(const Graph& graph) {
  begin(graph);
  wait();
}

void Scheduler::begin(const Graph& graph) {
  const GgmlErrors errors;
  const auto status = [&] {
    std::unique_lock lock(computing_);
    if (allocated_on_ == nullptr) return ggml_backend_sched_graph_compute(sched_.get(), graph.nodes());
    if (started_ == nullptr) started_lock_ = std::move(lock);
    started_ = allocated_on_;
    return ggml_backend_graph_compute_async(started_, graph.nodes());
  }();
  if (status != GGML_STATUS_SUCCESS)
    throw Error(fmt::format("computation failed: {}{}", ggml_status_to_string(status), errors.in_brackets()));
  traffic_ += allocated_;
}

void Scheduler::start(Graph graph) {
  allocate(graph);
  begin(graph);
  if (started_ != nullptr) running_.push_back(std::move(graph));
}

void Scheduler::run(const Graph& graph) {
  allocate(graph);
  compute(graph);
}

int64_t Scheduler::buffer_bytes() const {
  int64_t sum = 0;
  for (auto* backend : order_)
    sum += static_cast<int64_t>(ggml_backend_sched_get_buffer_size(sched_.get(), backend));
  for (const auto& [device, alone] : alone_)
    sum += static_cast<int64_t>(ggml_gallocr_get_buffer_size(alone.memory.get(), 0));
  return sum;
}

Storage::Storage(const Backends& backends, const char* what, int tensors, size_t device)
    : backends_(backends), what_(what), device_(device) {
  ctx_.reset(ggml_init({ggml_tensor_overhead() * static_cast<size_t>(tensors), nullptr, /*no_alloc=*/true}));
}

ggml_tensor* Storage::add(ggml_type type, int64_t ne0, int64_t ne1) {
  return ggml_new_tensor_2d(ctx_.get(), type, ne0, ne1);
}

void Storage::allocate(bool clear) {
  buffer_.reset(ggml_backend_alloc_ctx_tensors(ctx_.get(), backends_.backend(device_)));
  if (!buffer_)
    throw Error(fmt::format("out of memory for {}{}; use a shorter prompt or a smaller budget", what_,
                            backends_.is_cpu(device_) ? "" : " on " + backends_.name(device_)));
  if (clear) ggml_backend_buffer_clear(buffer_.get(), 0);
}

}  // namespace windowkv
