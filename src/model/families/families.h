#pragma once

namespace windowkv {

class Family;

const Family* exaone4_family();
const Family* gemma2_family();
const Family* gemma3_family();
const Family* gemma4_family();
const Family* glm4moe_family();
const Family* gpt_oss_family();
const Family* granite_family();
const Family* granitemoe_family();
const Family* hunyuan_dense_family();
const Family* llama_family();
const Family* minimax_m2_family();
const Family* mistral3_family();
const Family* olmo2_family();
const Family* phi3_family();
const Family* qwen2_family();
const Family* qwen3_family();
const Family* qwen35_family();
const Family* qwen35moe_family();
const Family* qwen3moe_family();
const Family* seed_oss_family();
const Family* smollm3_family();

}  // namespace windowkv
