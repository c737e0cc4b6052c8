#include "hub/repo.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <initializer_list>
#include <string_view>

#include "support/part_name.h"
#include "windowkv/error.h"

namespace windowkv::hub {

namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

bool is_alnum(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

/// Words of letters, digits and _ with one of / . - between them and exactly one /: folders of the cache are
/// named after it, and the hub allows no others.
bool is_repo_id(std::string_view id) {
  bool between = true;
  for (const char c : id) {
    const bool word = is_alnum(c) || c == '_';
    if (!word && (between || (c != '/' && c != '.' && c != '-'))) return false;
    between = !word;
  }
  return !between && id.size() <= 256 && std::ranges::count(id, '/') == 1;
}

/// Not projectors, drafts and what else lies beside a model in the same format.
bool is_model(const RepoFile& file) {
  const auto path = lower(file.path);
  const auto name = path.substr(path.rfind('/') + 1);
  return name.ends_with(".gguf") &&
         std::ranges::none_of(
             std::initializer_list<const char*>{"mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"},
             [&](const char* other) { return name.find(other) != std::string::npos; });
}

/// Whether the path names that quantization, as in "model-Q8_0.gguf"; BF16 does not name F16.
bool has_quant(const std::string& path, const std::string& quant) {
  const auto text = lower(path);
  const auto wanted = lower(quant);
  for (auto at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + 1)) {
    const auto end = at + wanted.size();
    const bool begins = at == 0 || !is_alnum(text[at - 1]);
    const bool ends = end < text.size() && (text[end] == '.' || text[end] == '-');
    if (begins && ends) return true;
  }
  return false;
}

const RepoFile* first_of(const std::vector<const RepoFile*>& models, const std::string& quant) {
  const auto found =
      std::ranges::find_if(models, [&](const RepoFile* f) { return has_quant(f->path, quant); });
  return found == models.end() ? nullptr : *found;
}

std::string list_of(const std::vector<const RepoFile*>& models) {
  constexpr size_t kMost = 40;
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(models.size(), kMost); ++i) names.push_back(models[i]->path);
  if (models.size() > kMost) names.push_back(fmt::format("and {} more", models.size() - kMost));
  return fmt::format("{}", fmt::join(names, ", "));
}

/// All parts of the model that the file is a part of, the first one first; the file alone where it is whole.
std::vector<RepoFile> parts_of(const RepoFile& file, const std::vector<RepoFile>& files,
                               const std::string& id) {
  const auto name = PartName::parse(file.path);
  if (!name) return {file};
  std::vector<RepoFile> parts;
  for (int i = 1; i <= name->count; ++i) {
    const auto found = std::ranges::find(files, name->path(i), &RepoFile::path);
    if (found == files.end())
      throw Error(fmt::format("{} lacks {}, part {} of {}", id, name->path(i), i, name->count));
    parts.push_back(*found);
  }
  return parts;
}

}  // namespace

Repo Repo::parse(const std::string& text) {
  const auto colon = text.find(':');
  Repo repo{text.substr(0, colon), colon == std::string::npos ? "" : text.substr(colon + 1)};
  if (!is_repo_id(repo.id) || (colon != std::string::npos && repo.quant.empty()))
    throw Error(
        fmt::format("\"{}\" is not a Hugging Face repository; write USER/REPO or USER/REPO:QUANT, such as "
                    "HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q8_0",
                    text));
  return repo;
}

std::vector<RepoFile> choose_model(const Repo& repo, const std::vector<RepoFile>& files,
                                   const std::string& name) {
  std::vector<const RepoFile*> models;
  models.reserve(files.size());
  for (const auto& file : files)
    if (is_model(file)) models.push_back(&file);
  const RepoFile* chosen = nullptr;
  if (!name.empty()) {
    const auto same = [&](const RepoFile& f) { return lower(f.path) == lower(name); };
    const auto found = std::ranges::find_if(files, same);
    if (found == files.end())
      throw Error(fmt::format("{} has no file {}; {}", repo.id, name,
                              models.empty() ? "nor any other GGUF" : "its GGUFs: " + list_of(models)));
    chosen = &*found;
  } else if (models.empty()) {
    throw Error(fmt::format("{} has no GGUF file; look for a repository whose name ends in -GGUF", repo.id));
  } else if (!repo.quant.empty()) {
    chosen = first_of(models, repo.quant);
    if (chosen == nullptr)
      throw Error(fmt::format("{} has no {} file; its GGUFs: {}", repo.id, repo.quant, list_of(models)));
  } else {
    for (const char* quant : {"Q4_K_M", "Q8_0"})
      if (chosen == nullptr) chosen = first_of(models, quant);
    if (chosen == nullptr) chosen = models.front();
  }
  return parts_of(*chosen, files, repo.id);
}

bool is_plain_path(const std::string& path) {
  const std::filesystem::path p(path);
  return !path.empty() && p.is_relative() && std::ranges::none_of(p, [](const auto& part) {
    return part.empty() || part == "." || part == "..";
  });
}

}  // namespace windowkv::hub
