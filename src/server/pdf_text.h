#pragma once

#include <functional>
#include <string>

namespace windowkv::server {

/// Whether PATH has poppler's pdftotext.
bool reads_pdf();

/// The text of a PDF file, which pdftotext reads in a process of its own: two files at once, up to 30 s of
/// the processor and 1 GiB of memory for each, until `cancelled`. Throws ApiError: 501 without that program,
/// 429 where two are being read, 400 where it cannot read the file or finds no text, 500 where it cannot be
/// started, 503 where it is cancelled.
std::string pdf_text(const std::string& file, const std::function<bool()>& cancelled);

}  // namespace windowkv::server
