// Compiled without coverage: the compiler would give these names to counters of its own.
#include "share_counters.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "input.h"

extern "C" uint8_t __start___sancov_cntrs;
extern "C" uint8_t __stop___sancov_cntrs;

namespace windowkv::fuzz {

void share_counters() {
  // Whole pages only: at the ends lies other data, which stays each process's own.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto start = (reinterpret_cast<uintptr_t>(&__start___sancov_cntrs) + page - 1) / page * page;
  const auto stop = reinterpret_cast<uintptr_t>(&__stop___sancov_cntrs) / page * page;
  if (start >= stop) return;
  auto* place = reinterpret_cast<uint8_t*>(start);
  const std::vector<uint8_t> before(place, place + (stop - start));
  require(mmap(place, stop - start, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
              place,
          "cannot share the counters");
  std::memcpy(place, before.data(), before.size());
}

}  // namespace windowkv::fuzz
