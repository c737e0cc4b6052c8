#pragma once

#include <string>

namespace windowkv::server {

/// Whether PATH has poppler's pdftotext.
bool reads_pdf();

/// The text of a PDF file, which pdftotext reads in a process of its own: two files at once, up to 30 s of
/// the processor and 1 GiB of memory for each. Throws ApiError: 501 without that program, 429 where two are
/// being read, 400 where it cannot read the file or finds no text.
std::string pdf_text(const std::string& file);

}  // namespace windowkv::server
