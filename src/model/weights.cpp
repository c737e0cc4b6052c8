#include "model/weights.h"

#include <algorithm>
#include <map>
#include <utility>

#include "windowkv/error.h"

namespace windowkv {

namespace {

std::string shape_text(const int64_t* ne, size_t dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims; ++i) text += (i ? ", " : "") + std::to_string(ne[i]);
  return text + "]";
}

/// Whether the device computes the tensor's use with the weight in a buffer of this type; asked with tensors
/// that have no data.
bool supported(ggml_backend_dev_t device, ggml_backend_buffer_type_t buft, const GgufFile::Tensor& tensor,
               WeightUse use) {
  ggml_context_ptr ctx(ggml_init({ggml_tensor_overhead() * 8, nullptr, true}));
  auto* w = ggml_new_tensor(ctx.get(), tensor.type, 4, tensor.ne);
  ggml_tensor* op = nullptr;
  switch (use) {
    case WeightUse::kMatMul:
      op = ggml_mul_mat(ctx.get(), w, ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, w->ne[0], 512));
      break;
    case WeightUse::kExperts:
      op = ggml_mul_mat_id(ctx.get(), w, ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, w->ne[0], 1, 512),
                           ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 1, 512));
      break;
    case WeightUse::kExpertBias:
      op = ggml_add_id(ctx.get(), ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, w->ne[0], 1, 512), w,
                       ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 1, 512));
      break;
    case WeightUse::kElementwise:
      op = ggml_mul(ctx.get(), ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, w->ne[0], 512), w);
      break;
    case WeightUse::kConvolution:
      op = ggml_ssm_conv(ctx.get(), ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, w->ne[0] + 511, w->ne[1], 1),
                         w);
      break;
    case WeightUse::kRows:
      op = ggml_get_rows(ctx.get(), w, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 512));
      break;
  }
  ggml_backend_buffer_ptr empty(ggml_backend_buft_alloc_buffer(buft, 0));
  w->buffer = empty.get();
  bool ok = empty && ggml_backend_dev_supports_op(device, op);
  w->buffer = nullptr;
  return ok;
}

}  // namespace

GgufFile::Tensor WeightLoader::checked(const std::string& name, std::initializer_list<int64_t> shape,
                                       WeightUse use) const {
  auto tensor = file_.find_tensor(name);
  if (!tensor) file_.fail("tensor " + name + " is missing");
  size_t i = 0;
  bool same = true;
  for (auto size : shape) same = same && tensor->ne[i++] == size;
  for (; i < 4; ++i) same = same && tensor->ne[i] == 1;
  if (!same)
    file_.fail("tensor " + name + " has the shape " + shape_text(tensor->ne, shape.size()) + ", expected " +
               shape_text(shape.begin(), shape.size()));
  const bool exact =
      use == WeightUse::kElementwise || use == WeightUse::kExpertBias || use == WeightUse::kConvolution;
  if (exact && tensor->type != GGML_TYPE_F32)
    file_.fail("tensor " + name + " has the type " + ggml_type_name(tensor->type) + ", expected f32");
  // q8_1 and q8_K hold activations: ggml says it multiplies by them, and calls a null function.
  const bool plain =
      tensor->type == GGML_TYPE_F32 || tensor->type == GGML_TYPE_F16 || tensor->type == GGML_TYPE_BF16;
  if (!plain &&
      (!ggml_is_quantized(tensor->type) || tensor->type == GGML_TYPE_Q8_1 || tensor->type == GGML_TYPE_Q8_K))
    file_.fail("tensor " + name + " has the type " + ggml_type_name(tensor->type) +
               ", which holds no weights");
  return *tensor;
}

bool WeightLoader::add(ggml_tensor*& slot, const std::string& name, std::initializer_list<int64_t> shape,
                       WeightUse use, int layer, Presence presence) {
  if (presence == Presence::kNone) return false;
  known_.insert(name);
  if (presence == Presence::kOptional && !file_.find_tensor(name)) return false;
  requests_.push_back({&slot, name, checked(name, shape, use), use, layer});
  return true;
}

void WeightLoader::add_stacked(std::span<const Stacked> parts, const std::string& name, int64_t width) {
  int64_t rows = 0;
  for (const auto& part : parts) rows += part.rows;
  auto tensor = checked(name, {width, rows}, WeightUse::kMatMul);
  known_.insert(name);
  const size_t row = ggml_row_size(tensor.type, width);
  for (const auto& part : parts) {
    tensor.ne[1] = part.rows;
    tensor.bytes = row * static_cast<size_t>(part.rows);
    requests_.push_back({part.slot, name, tensor, WeightUse::kMatMul, part.layer});
    tensor.data += tensor.bytes;
  }
}

ggml_backend_buffer_type_t WeightLoader::choose(const Backends& backends, const Request& request,
                                                const ModelOptions& options) const {
  const bool experts = request.use == WeightUse::kExperts || request.use == WeightUse::kExpertBias;
  // Rows of the embedding are looked up on the CPU: they are few, and the table would fill the device for
  // nothing.
  auto* device = request.use == WeightUse::kRows || (experts && request.layer < options.cpu_experts)
                     ? backends.cpu_device()
                     : backends.device(backends.device_of(request.layer));
  for (auto* buft : backends.weight_buffer_types(device, options.repack))
    if (supported(device, buft, request.tensor, request.use)) return buft;
  auto* cpu = backends.cpu_device();
  if (device != cpu && supported(cpu, ggml_backend_dev_buffer_type(cpu), request.tensor, request.use))
    return ggml_backend_dev_buffer_type(cpu);
  file_.fail("ggml cannot compute with tensor " + request.name + " of type " +
             ggml_type_name(request.tensor.type));
}

void WeightLoader::check_all_known() const {
  for (const auto& name : file_.tensor_names()) {
    // Precomputed rotations of old files; RoPE does not read them.
    const bool left_out = name.find("attn_rot_embd") != std::string::npos ||
                          std::ranges::any_of(left_out_, [&](const auto& p) { return name.starts_with(p); });
    if (!left_out && !known_.contains(name))
      file_.fail("tensor " + name + " is unknown in this model family; answers would be wrong");
  }
}

WeightLoader::Loaded WeightLoader::load(const Backends& backends, const ModelOptions& options) {
  Loaded loaded;
  std::map<std::string, int64_t> by_type;
  std::set<const uint8_t*> counted;
  auto* cpu_buft = ggml_backend_cpu_buffer_type();
  // Tensors by buffer type; a null one stands for "where it lies in the mapped file", with the part of it.
  std::map<std::pair<ggml_backend_buffer_type_t, size_t>, std::vector<Request*>> places;
  std::set<std::pair<ggml_backend_buffer_type_t, const uint8_t*>> copies;
  int64_t to_copy = 0;
  for (auto& request : requests_) {
    auto* buft = choose(backends, request, options);
    auto address = reinterpret_cast<uintptr_t>(request.tensor.data);
    if (options.mmap && buft == cpu_buft && address % ggml_backend_buft_get_alignment(buft) == 0)
      buft = nullptr;
    places[{buft, buft == nullptr ? request.tensor.part : 0}].push_back(&request);
    if (buft != nullptr && copies.insert({buft, request.tensor.data}).second)
      to_copy += static_cast<int64_t>(request.tensor.bytes);
    if (!counted.insert(request.tensor.data).second) continue;  // a tied output counts once
    by_type[ggml_type_name(request.tensor.type)] += static_cast<int64_t>(request.tensor.bytes);
    loaded.bytes += static_cast<int64_t>(request.tensor.bytes);
  }
  int64_t most = -1;
  for (auto& [name, bytes] : by_type)
    if (bytes > most) most = bytes, loaded.main_type = name;

  int64_t copied = 0;
  for (auto& [place, list] : places) {
    auto* const buft = place.first;
    const auto& part = file_.part(place.second);
    ggml_context_ptr ctx(ggml_init({ggml_tensor_overhead() * list.size(), nullptr, true}));
    std::map<const uint8_t*, ggml_tensor*> made;
    std::vector<const Request*> distinct;
    for (const auto* request : list) {
      auto& tensor = made[request->tensor.data];
      if (tensor == nullptr) {
        tensor = ggml_new_tensor(ctx.get(), request->tensor.type, 4, request->tensor.ne);
        ggml_set_name(tensor, request->name.c_str());
        distinct.push_back(request);
      }
      *request->slot = tensor;
    }
    ggml_backend_buffer_ptr buffer(buft == nullptr
                                       ? ggml_backend_cpu_buffer_from_ptr(part.bytes(), part.size())
                                       : ggml_backend_alloc_ctx_tensors_from_buft(ctx.get(), buft));
    if (!buffer)
      file_.fail(std::string("not enough memory for the weights on ") + ggml_backend_buft_name(buft));
    // Before they are filled: a server's cache of weights asks for it.
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    for (const auto* request : distinct) {
      const auto& source = request->tensor;
      if (buft == nullptr) {
        ggml_backend_tensor_alloc(buffer.get(), *request->slot, const_cast<uint8_t*>(source.data));
        loaded.mapped = true;
        continue;
      }
      ggml_backend_tensor_set(*request->slot, source.data, 0, source.bytes);
      copied += static_cast<int64_t>(source.bytes);
      if (options.progress) options.progress(copied, to_copy);
    }
    loaded.contexts.push_back(std::move(ctx));
    loaded.buffers.push_back(std::move(buffer));
  }
  return loaded;
}

}  // namespace windowkv
