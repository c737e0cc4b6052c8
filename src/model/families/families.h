#pragma once

namespace windowkv {

class Family;

const Family* gemma3_family();
const Family* llama_family();
const Family* qwen2_family();
const Family* qwen3_family();

}  // namespace windowkv
