#pragma once

namespace windowkv {

class Family;

const Family* llama_family();
const Family* qwen2_family();
const Family* qwen3_family();
const Family* qwen3moe_family();

}  // namespace windowkv
