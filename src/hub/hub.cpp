#include "hub/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "hub/cache.h"
#include "hub/http.h"
#include "hub/repo.h"

namespace windowkv::hub {

namespace fs = std::filesystem;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Without a slash at its end.
std::string endpoint() {
  for (const char* name : {"MODEL_ENDPOINT", "HF_ENDPOINT"}) {
    auto url = variable(name);
    if (url.empty()) continue;
    if (!url.starts_with("https://") && !url.starts_with("http://"))
      throw Error(fmt::format("{}={}: not an address that begins with https://", name, url));
    while (url.ends_with('/')) url.pop_back();
    return url;
  }
  return "https://huggingface.co";
}

std::string token_of(const ModelRequest& request) {
  auto token = request.token.empty() ? variable("HF_TOKEN") : request.token;
  if (!std::ranges::all_of(token, [](unsigned char c) { return c > ' ' && c < 127; }))
    throw Error("the Hugging Face token (HF_TOKEN or --hf-token) contains invalid characters");
  return token;
}

/// One repository on the hub.
class Remote {
 public:
  Remote(const Repo& repo, const ModelRequest& request, const Listener& listener)
      : repo_(repo), endpoint_(endpoint()), token_(token_of(request)), http_(token_, listener.cancelled) {}

  std::string host() const { return endpoint_.substr(endpoint_.find("//") + 2); }
  Http& http() { return http_; }

  /// The commit that its main branch is at.
  std::string commit() {
    const auto refs = api("/refs");
    std::string first;
    for (const auto& branch : refs.value("branches", nlohmann::json::array())) {
      auto at = branch.value("targetCommit", "");
      if (!is_commit(at)) continue;
      if (branch.value("name", "") == "main") return at;
      if (first.empty()) first = at;
    }
    if (first.empty()) throw Unavailable(fmt::format("{} reports no commit of {}", host(), repo_.id));
    return first;
  }

  std::vector<RepoFile> files(const std::string& commit) {
    std::vector<RepoFile> out;
    for (const auto& entry : api(fmt::format("/tree/{}?recursive=true", commit))) {
      RepoFile file{entry.value("path", ""), entry.value("oid", ""), entry.value("size", int64_t{0})};
      if (entry.value("type", "") != "file" || !is_plain_path(file.path)) continue;
      if (entry.contains("lfs")) file.oid = entry.at("lfs").value("oid", "");
      // It names a file of the cache.
      if (!std::ranges::all_of(file.oid, [](unsigned char c) { return std::isxdigit(c); })) file.oid = "";
      out.push_back(std::move(file));
    }
    return out;
  }

  std::string url(const std::string& commit, const RepoFile& file) const {
    return fmt::format("{}/{}/resolve/{}/{}", endpoint_, repo_.id, commit, url_path(file.path));
  }

  std::string no_access() const {
    return fmt::format(
        "{} denies access to {}: {}", host(), repo_.id,
        token_.empty()
            ? "the repository does not exist, or is private or gated; give a token with "
              "access to it in HF_TOKEN or with --hf-token"
            : fmt::format("the token has no access to it; if it is gated, accept its terms at {}/{}",
                          endpoint_, repo_.id));
  }

 private:
  nlohmann::json api(const std::string& what) {
    const auto response = http_.get(fmt::format("{}/api/models/{}{}", endpoint_, repo_.id, what));
    if (!response.failure.empty())
      throw Unavailable(fmt::format("{} cannot be reached: {}", host(), response.failure));
    if (response.status == 401 || response.status == 403) throw Unavailable(no_access());
    if (response.status == 404) throw Unavailable(fmt::format("{} has no repository {}", host(), repo_.id));
    if (response.status != 200)
      throw Unavailable(fmt::format("{} answered {}", host(), status_text(response)));
    try {
      return nlohmann::json::parse(response.body);
    } catch (const nlohmann::json::exception&) {
      throw Unavailable(fmt::format("{} does not answer like a Hugging Face hub{}", host(),
                                    response.html() ? " but with a web page" : ""));
    }
  }

  const Repo& repo_;
  std::string endpoint_;
  std::string token_;
  Http http_;
};

fs::path find_online(const Repo& repo, const ModelRequest& request, const RepoCache& cache,
                     const Listener& listener) {
  Remote remote(repo, request, listener);
  try {
    const auto commit = remote.commit();
    std::vector<fs::path> paths;
    for (const auto& file : choose_model(repo, remote.files(commit), request.file)) {
      const auto content = cache.content_path(commit, file);
      if (!fs::exists(content)) {
        make_folders(content.parent_path());
        if (listener.note)
          listener.note(fmt::format("downloading {} ({}) from {}/{} to {}", file.path, size_text(file.bytes),
                                    remote.host(), repo.id, cache.folder().string()));
        download(
            remote.http(),
            {remote.url(commit, file), content, file.path, file.sha256(), file.bytes, remote.no_access()},
            listener);
      }
      paths.push_back(cache.place(commit, file));
    }
    return paths.front();
  } catch (const nlohmann::json::exception&) {
    throw Unavailable(remote.host() + " does not answer like a Hugging Face hub");
  }
}

fs::path find_cached(const Repo& repo, const ModelRequest& request, const RepoCache& cache) {
  return cache.path_of(choose_model(repo, cache.files(), request.file).front());
}

fs::path find_offline(const Repo& repo, const ModelRequest& request, const RepoCache& cache) {
  if (cache.files().empty())
    throw Error(fmt::format("{} is not in the cache ({}); run once without --offline", repo.id,
                            cache.folder().parent_path().string()));
  try {
    return find_cached(repo, request, cache);
  } catch (const Error& e) {
    throw Error(fmt::format("in the cache, {}; run once without --offline for others", e.what()));
  }
}

fs::path find_anywhere(const Repo& repo, const ModelRequest& request, const RepoCache& cache,
                       const Listener& listener) {
  try {
    return find_online(repo, request, cache, listener);
  } catch (const Unavailable& why) {
    fs::path path;
    try {
      path = find_cached(repo, request, cache);
    } catch (const Error&) {
      throw why;
    }
    if (listener.note)
      listener.note(fmt::format("{}; using the cached {}", why.what(), path.filename().string()));
    return path;
  }
}

}  // namespace

fs::path find_model(const ModelRequest& request, const Listener& listener) {
  const auto repo = Repo::parse(request.repo);
  const RepoCache cache(repo.id);
  try {
    return request.offline ? find_offline(repo, request, cache)
                           : find_anywhere(repo, request, cache, listener);
  } catch (const fs::filesystem_error& e) {
    throw Error(fmt::format("{}: {}; set LLAMA_CACHE to use another folder for downloaded models",
                            e.path1().string(), e.code().message()));
  }
}

}  // namespace windowkv::hub
