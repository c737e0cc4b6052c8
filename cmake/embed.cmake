# Writes OUT, a C++ file that defines `std::string_view windowkv::FUNCTION()` as the bytes of the files IN,
# one behind the other.
#   cmake -DIN=weights.bin -DOUT=weights.cpp -DFUNCTION=name -DHEADER=header.h -P embed.cmake
set(bytes "")
foreach(file IN LISTS IN)
  file(READ ${file} part HEX)
  string(APPEND bytes ${part})
endforeach()
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include \"${HEADER}\"

namespace windowkv {

namespace {
constexpr unsigned char kBytes[] = {
${bytes}};
}

std::string_view ${FUNCTION}() {
  return {reinterpret_cast<const char*>(kBytes), sizeof kBytes};
}

}  // namespace windowkv
")
