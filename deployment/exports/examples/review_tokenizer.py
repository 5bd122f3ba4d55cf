"""tokenizer.json as it stands, with its cleaning; without a class of its own transformers would take Qwen2Tokenizer."""

from transformers import PreTrainedTokenizerFast


class ReviewTokenizer(PreTrainedTokenizerFast):
    pass
