#include "windowkv/model.h"

#include <fmt/format.h>

#include "model/fingerprint.h"
#include "model/loaded_model.h"
#include "windowkv/calibration.h"
#include "windowkv/error.h"

namespace windowkv {

Model::Model(std::unique_ptr<LoadedModel> loaded) : loaded_(std::move(loaded)) {}
Model::~Model() = default;

std::unique_ptr<Model> Model::load(const std::string& path, const ModelOptions& options) {
  auto m = std::make_unique<LoadedModel>();
  m->backends.emplace(options.device, options.threads, options.blas, options.rpc, options.warning);
  m->file = std::make_unique<GgufFile>(path);
  m->family = &find_family(*m->file);
  m->hp = read_common(*m->file, m->family->layers_may_differ());
  m->family->read(*m->file, m->hp);
  check_window(*m->file, *m->family, m->hp);
  // Layers that share K and V, and those they read.
  const int joined = m->hp.shared_layers > 0 ? m->hp.shared_layers + 2 : 0;
  m->backends->place_layers(m->hp.n_layer, options.tensor_split, std::min(joined, m->hp.n_layer));

  WeightLoader loader(*m->file);
  m->family->declare(loader, m->hp, m->weights);
  loader.check_all_known();
  m->hp.fingerprint = fingerprint(*m->file, m->hp);

  if (auto tokens = m->file->find_array_size("tokenizer.ggml.tokens"); tokens && *tokens != m->hp.n_vocab)
    m->file->fail(fmt::format("the vocabulary has {} tokens, the embedding {}", *tokens, m->hp.n_vocab));
  try {
    m->vocab = std::make_unique<Vocab>(*m->file, options.warning);
  } catch (const Error& e) {
    m->vocab_error = e.what();
  }
  std::optional<Calibration> calibration;
  if (options.calibration == "auto")
    calibration = find_calibration(path, m->hp, options.warning);
  else if (options.calibration != "none")
    calibration = read_calibration(options.calibration, m->hp);
  if (calibration) {
    m->calibration = calibration->source;
    m->hp.layer_shares = std::move(calibration->layer_shares);
  }
  if (options.weights) m->storage = loader.load(*m->backends, options);
  return std::unique_ptr<Model>(new Model(std::move(m)));
}

const std::string& Model::path() const {
  return loaded_->file->path();
}
const HParams& Model::hparams() const {
  return loaded_->hp;
}

const Vocab& Model::vocab() const {
  if (!loaded_->vocab) throw Error(loaded_->vocab_error);
  return *loaded_->vocab;
}

const Vocab* Model::find_vocab() const {
  return loaded_->vocab.get();
}

const std::string& Model::calibration() const {
  return loaded_->calibration;
}

int64_t Model::weight_bytes() const {
  return loaded_->storage.bytes;
}
const std::string& Model::weight_type() const {
  return loaded_->storage.main_type;
}
std::vector<DeviceLayers> Model::devices() const {
  const auto& backends = *loaded_->backends;
  std::vector<DeviceLayers> out;
  for (size_t d = 0; d < backends.device_count(); ++d) {
    const auto& run = backends.layer_runs()[d];
    out.push_back({backends.name(d), run.first, run.count()});
  }
  return out;
}

bool Model::on_cpu() const {
  return loaded_->backends->cpu_alone();
}

std::string Model::device_name() const {
  const auto& backends = *loaded_->backends;
  if (on_cpu())
    return ggml_backend_dev_description(backends.cpu_device()) + std::string(backends.blas() ? ", BLAS" : "");
  if (backends.device_count() == 1) return backends.name(0);
  std::string text;
  for (size_t d = 0; d < backends.device_count(); ++d)
    if (const auto& run = backends.layer_runs()[d]; run.count() > 0)
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", backends.name(d), to_string(run));
  return text;
}

std::vector<std::string> Model::buffers() const {
  std::vector<std::string> out;
  for (const auto& buffer : loaded_->storage.buffers)
    out.push_back(fmt::format("{} {:.1f} MiB", ggml_backend_buffer_name(buffer.get()),
                              static_cast<double>(ggml_backend_buffer_get_size(buffer.get())) / (1 << 20)));
  return out;
}

}  // namespace windowkv
