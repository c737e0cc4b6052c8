#include "server/pdf_text.h"

#include <algorithm>
#include <semaphore>

#include "server/api_error.h"
#include "support/child.h"
#include "windowkv/error.h"

namespace windowkv::server {

namespace {

constexpr int kAtOnce = 2;
constexpr ChildLimits kLimits{.seconds = 30, .memory = size_t{1} << 30};
constexpr size_t kMostText = size_t{64} << 20;

std::counting_semaphore<kAtOnce> places(kAtOnce);

const std::string& program() {
  static const std::string path = find_program("pdftotext");
  return path;
}

struct Place {
  Place() {
    if (!places.try_acquire()) throw busy("other PDF files are being read");
  }
  ~Place() { places.release(); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
};

}  // namespace

bool reads_pdf() {
  return !program().empty();
}

std::string pdf_text(const std::string& file, const std::function<bool()>& cancelled) {
  if (!reads_pdf())
    throw ApiError(501, "PDF files need pdftotext, which this machine does not have (Debian: poppler-utils)");
  // Readers take what comes before it, if it is not much.
  if (file.substr(0, 1024).find("%PDF-") == std::string::npos)
    throw ApiError(400, "the body is not a PDF file");
  const Place place;
  std::string text;
  try {
    text = run_program("reading the PDF file", {program(), "-enc", "UTF-8", "-nopgbrk", "-q", "-", "-"}, file,
                       kLimits, kMostText, cancelled);
  } catch (const CannotRun& e) {
    throw ApiError(500, e.what());
  } catch (const Cancelled&) {
    throw ApiError(503, "the server is shutting down");  // or nobody hears it
  } catch (const Error& e) {
    const std::string reason = e.what();
    throw ApiError(
        400, reason.ends_with(" fails") ? reason + " (is it damaged, or does it need a password?)" : reason);
  }
  if (std::ranges::all_of(text, [](unsigned char c) { return c <= ' '; }))
    throw ApiError(400, "the PDF file has no text: its pages are pictures");
  return text;
}

}  // namespace windowkv::server
