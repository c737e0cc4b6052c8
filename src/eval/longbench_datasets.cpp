// The protocol of LongBench: prompts, answer lengths and metrics as its config and eval.py publish them
// (github.com/THUDM/LongBench, MIT), odd spaces included; groups as Table 1 of the WindowKV paper has them.
#include "eval/longbench.h"

namespace windowkv::eval {

namespace {

constexpr auto kLocal = Task::kLocalization;
constexpr auto kAggregate = Task::kAggregation;

constexpr std::string_view kPassages =
    "Answer the question based on the given passages. Only give me the answer and do not output any other "
    "words.\n\nThe following are given passages.\n{context}\n\nAnswer the question based on the given "
    "passages. Only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:";

constexpr Dataset kDatasets[] = {
    {.name = "narrativeqa",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 128,
     .task = kLocal,
     .chat = true,
     // "asconcisely" is the benchmark's own.
     .prompt = "You are given a story, which can be either a novel or a movie script, and a question. Answer "
               "the question asconcisely as you can, using a single phrase if possible. Do not provide any "
               "explanation.\n\nStory: {context}\n\nNow, answer the question based on the story asconcisely "
               "as you can, using a single phrase if possible. Do not provide any explanation.\n\nQuestion: "
               "{input}\n\nAnswer:"},
    {.name = "qasper",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 128,
     .task = kLocal,
     .chat = true,
     .prompt = "You are given a scientific article and a question. Answer the question as concisely as you "
               "can, using a single phrase or sentence if possible. If the question cannot be answered based "
               "on the information in the article, write \"unanswerable\". If the question is a yes/no "
               "question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\n"
               "Article: {context}\n\n Answer the question based on the above article as concisely as you "
               "can, using a single phrase or sentence if possible. If the question cannot be answered based "
               "on the information in the article, write \"unanswerable\". If the question is a yes/no "
               "question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\n"
               "Question: {input}\n\nAnswer:"},
    {.name = "multifieldqa_en",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 64,
     .task = kLocal,
     .chat = true,
     .prompt = "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following "
               "question based on the above text, only give me the answer and do not output any other "
               "words.\n\nQuestion: {input}\nAnswer:"},
    {.name = "multifieldqa_zh",
     .language = "zh",
     .metric = Metric::kQaF1Zh,
     .max_new_tokens = 64,
     .task = kLocal,
     .chat = true,
     .prompt =
         "阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，只告诉我答案"
         "，不要输出任何其他字词。\n\n问题：{input}\n回答："},
    {.name = "hotpotqa",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 32,
     .task = kLocal,
     .chat = true,
     .prompt = kPassages},
    {.name = "2wikimqa",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 32,
     .task = kLocal,
     .chat = true,
     .prompt = kPassages},
    {.name = "musique",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 32,
     .task = kLocal,
     .chat = true,
     .prompt = kPassages},
    {.name = "dureader",
     .language = "zh",
     .metric = Metric::kRougeLZh,
     .max_new_tokens = 128,
     .task = kLocal,
     .chat = true,
     .prompt = "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n请基于上述文章回答下面的问题。\n\n问题："
               "{input}\n回答："},
    {.name = "gov_report",
     .language = "en",
     .metric = Metric::kRougeL,
     .max_new_tokens = 512,
     .task = kAggregate,
     .chat = true,
     .prompt = "You are given a report by a government agency. Write a one-page summary of the report.\n\n"
               "Report:\n{context}\n\nNow, write a one-page summary of the report.\n\nSummary:"},
    {.name = "qmsum",
     .language = "en",
     .metric = Metric::kRougeL,
     .max_new_tokens = 512,
     .task = kAggregate,
     .chat = true,
     .prompt = "You are given a meeting transcript and a query containing a question or instruction. Answer "
               "the query in one or more sentences.\n\nTranscript:\n{context}\n\nNow, answer the query based "
               "on the above meeting transcript in one or more sentences.\n\nQuery: {input}\nAnswer:"},
    {.name = "multi_news",
     .language = "en",
     .metric = Metric::kRougeL,
     .max_new_tokens = 512,
     .task = kAggregate,
     .chat = true,
     .prompt = "You are given several news passages. Write a one-page summary of all news. \n\nNews:\n"
               "{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:"},
    {.name = "vcsum",
     .language = "zh",
     .metric = Metric::kRougeLZh,
     .max_new_tokens = 512,
     .task = kAggregate,
     .chat = true,
     .prompt =
         "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n{context}\n\n会议总结："},
    {.name = "trec",
     .language = "en",
     .metric = Metric::kClassification,
     .max_new_tokens = 64,
     .task = kAggregate,
     .chat = false,
     .first_line = true,
     .prompt = "Please determine the type of the question below. Here are some examples of questions.\n\n"
               "{context}\n{input}"},
    {.name = "triviaqa",
     .language = "en",
     .metric = Metric::kQaF1,
     .max_new_tokens = 32,
     .task = kAggregate,
     .chat = false,
     .first_line = true,
     .prompt =
         "Answer the question based on the given passage. Only give me the answer and do not output any "
         "other words. The following are some examples.\n\n{context}\n\n{input}"},
    {.name = "samsum",
     .language = "en",
     .metric = Metric::kRougeL,
     .max_new_tokens = 128,
     .task = kAggregate,
     .chat = false,
     .first_line = true,
     .newline_ends = true,
     .prompt = "Summarize the dialogue into a few short sentences. The following are some examples.\n\n"
               "{context}\n\n{input}"},
    {.name = "lsht",
     .language = "zh",
     .metric = Metric::kClassification,
     .max_new_tokens = 64,
     .task = kAggregate,
     .chat = false,
     .first_line = true,
     .prompt = "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}"},
    {.name = "passage_count",
     .language = "en",
     .metric = Metric::kCount,
     .max_new_tokens = 32,
     .task = kAggregate,
     .chat = true,
     .prompt =
         "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please "
         "carefully read these paragraphs and determine how many unique paragraphs there are after "
         "removing duplicates. In other words, how many non-repeating paragraphs are there in total?"
         "\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing duplicates. "
         "The output format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final "
         "answer is: "},
    {.name = "passage_retrieval_en",
     .language = "en",
     .metric = Metric::kRetrieval,
     .max_new_tokens = 32,
     .task = kLocal,
     .chat = true,
     .prompt =
         "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which "
         "paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\n"
         "Please enter the number of the paragraph that the abstract is from. The answer format must be "
         "like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
    {.name = "passage_retrieval_zh",
     .language = "zh",
     .metric = Metric::kRetrievalZh,
     .max_new_tokens = 32,
     .task = kLocal,
     .chat = true,
     .prompt =
         "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n{context}\n\n下面是"
         "一个摘要\n\n{input}\n\n请输入摘要所属段落的编号。答案格式必须是\"段落1\"，\"段落2\"等格式\n\n"
         "答案是："},
    {.name = "lcc",
     .language = "en",
     .metric = Metric::kCodeSimilarity,
     .max_new_tokens = 64,
     .task = kAggregate,
     .chat = false,
     .prompt = "Please complete the code given below. \n{context}Next line of code:\n"},
    {.name = "repobench-p",
     .language = "en",
     .metric = Metric::kCodeSimilarity,
     .max_new_tokens = 64,
     .task = kAggregate,
     .chat = false,
     .prompt = "Please complete the code given below. \n{context}{input}Next line of code:\n"},
};

}  // namespace

std::span<const Dataset> longbench_datasets() {
  return kDatasets;
}

const Dataset* find_dataset(std::string_view name) {
  for (const auto& dataset : kDatasets)
    if (dataset.name == name) return &dataset;
  return name.ends_with("_e") ? find_dataset(name.substr(0, name.size() - 2)) : nullptr;
}

}  // namespace windowkv::eval
