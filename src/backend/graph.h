#pragma once

#include <ggml-backend.h>
#include <ggml-cpp.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "windowkv/device_traffic.h"

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
  /// Has `device` compute what reads `tensor`, or what that is a view of. The scheduler may let a node
  /// without weights stay with the one before it, and then copies its result as well as what it reads.
  void read_on(ggml_tensor* tensor, ggml_backend_t device) { readers_.emplace_back(tensor, device); }
  const std::vector<std::pair<ggml_tensor*, ggml_backend_t>>& readers() const { return readers_; }
  /// A value that lives as long as the graph: what a function of ours in it is told (ggml_custom's userdata).
  template <typename T>
  T* hold(T value) {
    auto held = std::make_shared<T>(std::move(value));
    held_.push_back(held);
    return held.get();
  }
  /// A tensor the caller fills after Scheduler::allocate.
  ggml_tensor* input(ggml_type type, int64_t ne0, int64_t ne1 = 1);
  const std::vector<ggml_tensor*>& inputs() const { return inputs_; }

 private:
  std::vector<uint8_t> arena_;
  ggml_context_ptr ctx_;
  ggml_cgraph* graph_;
  std::vector<std::pair<ggml_tensor*, ggml_backend_t>> readers_;
  std::vector<std::shared_ptr<void>> held_;
  std::vector<ggml_tensor*> inputs_;
};

/// `first` and what follows it, as often as asked: [count, times] I32.
ggml_tensor* build_numbers(ggml_context* ctx, int64_t count, int64_t times = 1, int64_t first = 0);

/// Rows [d, n] or [d, n, heads] that may lie apart, as F32 side by side. `numbers`: build_numbers(n, heads).
ggml_tensor* build_widened(ggml_context* ctx, ggml_tensor* rows, ggml_tensor* numbers);

/// Whether a scheduler's large matrix products go to BLAS where there is one. It widens quantized weights
/// each time, so that it takes dozens of columns to gain.
enum class Products { kPlain, kBlas };

/// Places graphs on the backends and runs them: by ggml's scheduler, or without it where one device that is
/// not the CPU has all that a graph reads and computes all of its operations. Such graphs are planned in a
/// fraction of the time and may run while the next one is built.
class Scheduler {
 public:
  explicit Scheduler(const Backends& backends, size_t max_nodes = 4096, Products products = Products::kPlain);
  ~Scheduler() { wait(); }
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Gives the graph's tensors memory; whatever was allocated before loses its own. Throws Error when there
  /// is none.
  void allocate(const Graph& graph);
  /// Runs a graph that holds the current allocation; may be repeated. One thread at a time on the same
  /// backends, whatever the scheduler; what was started counts until it is waited for.
  void compute(const Graph& graph);
  /// allocate + compute, for graphs without inputs of their own.
  void run(const Graph& graph);
  /// The same, but returns before it is computed where a device computes it alone. What is run after it finds
  /// what it wrote; whoever reads or writes tensors otherwise, or frees them, waits first.
  void start(Graph graph);
  /// Until all that was started is computed.
  void wait();

  /// The most nodes of a graph it takes.
  size_t max_nodes() const { return max_nodes_; }
  /// Of every compute() so far.
  const DeviceTraffic& traffic() const { return traffic_; }
  /// Operations that the CPU computed since no other device has them, by ggml's names.
  const std::set<std::string>& strays() const { return strays_; }
  /// Adds a copy made outside of a graph.
  void add_copy(int64_t bytes) { traffic_ += {0, 0, 1, bytes}; }
  /// Bytes of compute buffers held.
  int64_t buffer_bytes() const;

 private:
  void place_nodes(const Graph& graph);
  /// Whose graph it is alone; null where it is not one device's, or the CPU's.
  ggml_backend_t only_device(const Graph& graph) const;
  void allocate_alone(const Graph& graph, ggml_backend_t device);
  void find_strays(const Graph& graph);
  void begin(const Graph& graph);

  std::vector<ggml_backend_t> order_;  ///< the CPU last
  bool several_devices_;
  size_t max_nodes_;
  std::recursive_mutex& computing_;
  /// What each node of a graph reads; kept so that a graph allocates nothing.
  std::vector<std::pair<ggml_tensor*, std::array<ggml_tensor*, GGML_MAX_SRC>>> sources_;
  ggml_backend_sched_ptr sched_;
  /// What graphs of one device alone are planned with.
  struct Alone {
    ggml_gallocr_ptr memory;
    ggml_gallocr_ptr measure;  ///< holds no memory: tells what a plan takes before that is asked for
  };
  std::map<ggml_backend_t, Alone> alone_;
  ggml_backend_t allocated_on_ = nullptr;  ///< the device that has the allocated graph alone
  ggml_backend_t started_ = nullptr;       ///< that may still compute
  std::unique_lock<std::recursive_mutex> started_lock_;
  std::vector<Graph> running_;  ///< on it; ggml's Vulkan backend looks at the tensors of earlier ones
  DeviceTraffic allocated_;     // of one compute of the graph that is allocated
  DeviceTraffic traffic_;
  std::set<std::string> strays_;
};

/// Copies what lies in a tensor to another of the same shape and type, devices apart, some MiB at a time.
void copy_rows(ggml_tensor* from, ggml_tensor* to);

/// Tensors that outlive a graph, in a buffer of one of the devices.
class Storage {
 public:
  /// `clear`: zero the bytes. Throws Error naming `what` where the memory is not to be had.
  Storage(const Backends& backends, const char* what, int tensors, size_t device = 0);

  ggml_tensor* add(ggml_type type, int64_t ne0, int64_t ne1);
  /// After the last add().
  void allocate(bool clear);
  int64_t bytes() const {
    return buffer_ ? static_cast<int64_t>(ggml_backend_buffer_get_size(buffer_.get())) : 0;
  }

 private:
  const Backends& backends_;
  const char* what_;
  size_t device_;
  ggml_context_ptr ctx_;
  ggml_backend_buffer_ptr buffer_;
};

}  // namespace windowkv
