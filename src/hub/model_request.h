#pragma once

#include <string>

namespace windowkv::hub {

/// The model that is wanted.
struct ModelRequest {
  std::string repo;   ///< USER/REPO[:QUANT]
  std::string file;   ///< a file of it by name, "" for the one of QUANT (choose_model)
  std::string token;  ///< "": the one of HF_TOKEN
  bool offline = false;
};

}  // namespace windowkv::hub
